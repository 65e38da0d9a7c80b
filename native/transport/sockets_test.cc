#include "transport/sockets.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/un.h>

#include <string>

namespace cairn {
namespace {

std::string host_of_v6(const char* text) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(9600);
  EXPECT_EQ(inet_pton(AF_INET6, text, &address.sin6_addr), 1);
  return host_of(reinterpret_cast<const sockaddr*>(&address));
}

// A host that comes now by an IPv4 socket and now by one of both would have had twice its limit.
TEST(Sockets, AHostHasOneNameWhateverTheSocket) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(1234);
  EXPECT_EQ(inet_pton(AF_INET, "10.0.0.7", &address.sin_addr), 1);
  EXPECT_EQ(host_of(reinterpret_cast<const sockaddr*>(&address)), "10.0.0.7");
  EXPECT_EQ(host_of_v6("::ffff:10.0.0.7"), "10.0.0.7");
  EXPECT_EQ(host_of_v6("fd00::7"), "fd00::7");
}

TEST(Sockets, WhatIsOnNoNetworkHasNoHost) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  EXPECT_EQ(host_of(reinterpret_cast<const sockaddr*>(&address)), "");
}

}  // namespace
}  // namespace cairn
