// A share of what cairn-model tries: every short history of drives that come and go, and those that once found
// something.
#include <gtest/gtest.h>

#include <sstream>
#include <string>

#include "testing/model_world.h"

namespace cairn {
namespace {

void expect_well(const ModelOutcome& outcome) {
  EXPECT_TRUE(outcome.whole);
  EXPECT_GT(outcome.kept, 0U) << "a store that keeps nothing would pass as well";
  for (const std::string& what : outcome.violations) ADD_FAILURE() << what;
}

TEST(DrivesModel, NoShortHistoryBringsBackWhatWasDeletedOrReplaced) {
  expect_well(explore({.drives = 2, .depth = 2, .cuts = 1}));
  expect_well(explore({.drives = 2, .depth = 3, .cuts = 0}));
  expect_well(explore({.drives = 3, .depth = 2, .cuts = 0}));
  expect_well(explore({.drives = 3, .depth = 1, .cuts = 1}));
}

// What a user would have lost: a drive that was away for a moment, and everything on it; the service, which waited for
// ever for a drive that it had written off and that came back alone; a delete, given the number of what it was to
// delete by a store that went on with a blank drive, and again by drives that had joined empty; every answer of a store
// that waited and was left without a drive. Two more: a drive that comes back is told what it missed, and then is the
// only one.
TEST(DrivesModel, FoundOnce) {
  for (const char* history :
       {"start:3 put:0 vanish:0 attach:0", "start:3 vanish:0 detach:1 attach:1", "start:3 vanish:0 vanish:1 attach:1",
        "start:3 put:0 vanish:0 close start:2 delete:0 close start:3",
        "start:3 put:0 vanish:0 close start:2 delete-scope attach:0", "start:7 close start:1 detach:0 put:0",
        "start:7 put:0 close start:2 attach:2", "start:3 put:0 vanish:0 put:0 attach:0 vanish:1 close start:1",
        "start:3 put:0 vanish:0 delete:0 attach:0 vanish:1 close start:1",
        "start:3 close start:1 put:0 close start:7 close start:6 attach:0",
        "start:3 close start:1 put:0 close start:7 close start:6 delete:0 put:1 delete:1 put:1 attach:0"}) {
    ModelPlan plan;
    plan.drives = std::string(history).find("start:7") == std::string::npos ? 2 : 3;
    std::istringstream words(history);
    for (std::string word; words >> word;) plan.only.push_back(model_step_of(word).value());
    for (const std::string& what : explore(plan).violations) ADD_FAILURE() << what;
  }
}

}  // namespace
}  // namespace cairn
