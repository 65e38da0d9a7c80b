// What the inventory says of a namespace: everywhere for what is none, and in the testbed for those that are.
#include "drive/nvme_describe.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "drive/drive.h"
#include "testing/testbed.h"

namespace cairn {
namespace {

TEST(Describe, WhatIsNoNamespaceIsRefusedWithWhatToName) {
  const std::string file = testing::TempDir() + "cairn-describe";
  std::ofstream(file) << "text";
  const auto described = describe_nvme(file);
  ASSERT_FALSE(described.ok());
  EXPECT_NE(described.error().message.find("is no character device; name a namespace such as /dev/ng0n1"),
            std::string::npos);
  std::remove(file.c_str());
  const auto terminal = describe_nvme("/dev/null");
  ASSERT_FALSE(terminal.ok());
  EXPECT_NE(terminal.error().message.find("/dev/null is a character device"), std::string::npos);
  EXPECT_EQ(describe_nvme("/dev/cairn-none").error().system_errno, ENOENT);
}

TEST(Describe, NvmeNamespacesAreToldAsTheDriveFindsThem) {
  const auto namespaces = testbed_namespaces();
  if (namespaces.empty()) GTEST_SKIP() << "there is no testbed: make test-devices";
  for (const std::string& path : namespaces) {
    auto opened = open_drive(path, DriveOptions{});
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    // The drive is in use, and is asked all the same.
    const auto described = describe_nvme(path);
    ASSERT_TRUE(described.ok()) << described.error().message;
    const DriveInfo& info = opened.value()->info();
    const std::string& json = described.value();
    EXPECT_NE(json.find("\"lba_bytes\":" + std::to_string(info.lba_bytes)), std::string::npos) << json;
    EXPECT_NE(json.find(info.volatile_write_cache ? "\"write_cache_on\":true" : "\"write_cache_on\":false"),
              std::string::npos)
        << json;
    EXPECT_NE(json.find(info.can_discard ? "\"deallocates\":true" : "\"deallocates\":false"), std::string::npos)
        << json;
  }
}

}  // namespace
}  // namespace cairn
