// Protection domains made before they are wanted. To make one registers the whole slab with the device, which takes as
// long as the system likes: that is done on a thread of its own, and never for a tenant in particular.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"

namespace cairn {

class RdmaDomain;

class RdmaSpares {
 public:
  using Make = std::function<Result<std::unique_ptr<RdmaDomain>>()>;
  // `make` is called on the thread of this; so is `told`, whenever there is one more, or the last one could not be
  // made.
  RdmaSpares(size_t made_most, Make make, std::function<void()> told);
  ~RdmaSpares();  // waits for the one that is being made
  RdmaSpares(const RdmaSpares&) = delete;
  RdmaSpares& operator=(const RdmaSpares&) = delete;

  // One that is ready; nullptr: none is. Then `coming` says whether there will be one, and `reason` why not.
  std::unique_ptr<RdmaDomain> take(bool& coming, std::string& reason);
  // One that was taken has ended: another may be made for it.
  void ended(size_t count);

 private:
  static constexpr size_t kReady = 2;
  void run();

  Make make_;
  std::function<void()> told_;
  std::mutex lock_;
  std::condition_variable wanted_;
  std::vector<std::unique_ptr<RdmaDomain>> ready_;
  size_t left_;          // that may still be made
  std::string failure_;  // why the last one could not be; made again when it is asked for
  bool over_ = false;
  std::thread thread_;
};

}  // namespace cairn
