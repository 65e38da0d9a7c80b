// A number on the drives has one owner.
#include "server/tenant_names.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/crc32c.h"

namespace cairn {
namespace {

TenantOptions named(const std::string& name, uint32_t number) {
  TenantOptions options;
  options.name = name;
  options.number = number;
  return options;
}

uint32_t crc_of(std::string_view name) {
  return crc32c(std::as_bytes(std::span(name)));
}

TEST(TenantNames, NamesThatAreNotConfiguredStandForThemselves) {
  TenantNames names(true);
  EXPECT_EQ(names.find("").number, 0U);
  EXPECT_EQ(names.find("default").number, 0U);
  EXPECT_EQ(names.find("team-a").number, crc_of("team-a"));
  EXPECT_EQ(names.find("team-a").status, Status::ok);
  EXPECT_EQ(names.name_of(crc_of("team-a")), "team-a");
  EXPECT_EQ(names.name_of(0), "default");
  EXPECT_EQ(names.name_of(17), "");
}

TEST(TenantNames, AConfiguredNameHasItsNumber) {
  TenantNames names(true);
  ASSERT_TRUE(names.configure({named("team-a", 7), named("default", 0)}).ok());
  EXPECT_EQ(names.find("team-a").number, 7U);
  EXPECT_EQ(names.name_of(7), "team-a");
}

TEST(TenantNames, TheNumberOfAConfiguredTenantIsNobodyElses) {
  TenantNames names(true);
  ASSERT_TRUE(names.configure({named("team-a", crc_of("intruder"))}).ok());
  const TenantNames::Found found = names.find("intruder");
  EXPECT_EQ(found.status, Status::denied);
  EXPECT_NE(std::string(found.reason).find("configured tenant"), std::string::npos);
}

TEST(TenantNames, TwoNamesThatMeetAreKeptApart) {
  TenantNames names(true);
  const std::string one = "gpu-code-463113", other = "search-south-764882";
  ASSERT_EQ(crc_of(one), crc_of(other));
  EXPECT_EQ(names.find(one).status, Status::ok);
  EXPECT_EQ(names.find(one).status, Status::ok) << "again";
  EXPECT_EQ(names.find(other).status, Status::denied);
}

TEST(TenantNames, UnknownNamesAreRefusedWhenToldSo) {
  TenantNames names(false);
  ASSERT_TRUE(names.configure({named("team-a", 7)}).ok());
  EXPECT_EQ(names.find("team-a").status, Status::ok);
  EXPECT_EQ(names.find("").status, Status::ok);
  EXPECT_EQ(names.find("team-b").status, Status::denied);
}

TEST(TenantNames, WhatDoesNotGoTogetherChangesNothing) {
  TenantNames names(true);
  ASSERT_TRUE(names.configure({named("team-a", 7)}).ok());
  EXPECT_EQ(names.find("seen").status, Status::ok);
  const std::vector<std::vector<TenantOptions>> wrong = {{named("a", 1), named("a", 2)},
                                                         {named("a", 1), named("b", 1)},
                                                         {named("a", 0)},
                                                         {named("default", 3)},
                                                         {named("", 1)},
                                                         {named("a", UINT32_MAX)},
                                                         {named("other", crc_of("seen"))}};
  for (const auto& tenants : wrong) {
    const auto configured = names.configure(tenants);
    ASSERT_FALSE(configured.ok());
    EXPECT_EQ(configured.error().status, static_cast<uint16_t>(Status::invalid));
    EXPECT_EQ(names.find("team-a").number, 7U);
  }
  EXPECT_TRUE(names.configure({named("seen", crc_of("seen"))}).ok()) << "its own number is its own";
}

TEST(TenantNames, NamesAreRememberedUpToABound) {
  TenantNames names(true);
  size_t refused = 0;
  for (size_t i = 0; i < TenantNames::kSeenMost + 100; ++i)
    refused += names.find("tenant " + std::to_string(i)).status == Status::ok ? 0 : 1;
  EXPECT_GE(refused, 100U);
  EXPECT_EQ(names.find("tenant 0").status, Status::ok) << "whoever came before may come again";
  EXPECT_EQ(names.find("one more").status, Status::busy);
}

}  // namespace
}  // namespace cairn
