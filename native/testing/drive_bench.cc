// cairn-drive-bench: how fast our drive is, to be compared with fio on the same device in the same run.
//   cairn-drive-bench PATH read|write [--bytes N] [--depth N] [--seconds N] [--registered]
// Requests of N bytes (2 MiB) at random places, so many in flight (8), from memory that was registered or was not.
// `write` destroys what the drive holds. Prints one JSON object; the processor's time, the kernel's included, is that
// of the whole process.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/json.h"
#include "base/slab.h"
#include "drive/drive.h"
#include "testing/measuring.h"

namespace {

using namespace cairn;

struct Wishes {
  std::string path;
  IoKind kind = IoKind::read;
  uint64_t bytes = 2 << 20;
  uint64_t depth = 8;
  uint64_t seconds = 5;
  bool registered = false;
};

struct Load {
  Drive& drive;
  const Wishes& wishes;
  uint64_t until_ms;
  std::mt19937_64 random{1};
  uint64_t done = 0;
  int error = 0;
};

class Request final : public IoRequest {
 public:
  Request(Load& load, std::byte* memory) : load_(load), part_{memory, load.wishes.bytes} {
    kind = load.wishes.kind;
    vectors = &part_;
    vector_count = 1;
    bytes = load.wishes.bytes;
  }
  void go() {
    offset = load_.random() % (load_.drive.info().bytes / bytes) * bytes;
    load_.drive.submit(*this);
  }
  void completed(int code) override {
    if (code != 0) load_.error = code;
    ++load_.done;
    if (load_.error == 0 && system_clock().now_ms() < load_.until_ms) go();
  }

 private:
  Load& load_;
  iovec part_;
};

int measure(const Wishes& wishes) {
  auto opened = open_drive(wishes.path, DriveOptions{});
  auto slab = Slab::create(wishes.bytes * wishes.depth);
  if (!opened || !slab) {
    std::fprintf(stderr, "%s\n", (opened ? slab.error() : opened.error()).message.c_str());
    return 1;
  }
  Drive& drive = *opened.value();
  if (wishes.registered) (void)drive.register_memory(slab.value()->memory());
  const double before = processor_seconds();
  const uint64_t begun_ms = system_clock().now_ms();
  Load load{.drive = drive, .wishes = wishes, .until_ms = begun_ms + wishes.seconds * 1000};
  std::vector<std::unique_ptr<Request>> requests;
  for (uint64_t i = 0; i < wishes.depth; ++i) {
    requests.push_back(std::make_unique<Request>(load, slab.value()->memory().data() + i * wishes.bytes));
    requests.back()->go();
  }
  while (drive.in_flight() > 0) drive.wait(100);
  const double seconds = static_cast<double>(system_clock().now_ms() - begun_ms) / 1000;
  const double spent = processor_seconds() - before;
  JsonWriter json;
  json.begin_object().text("path", wishes.path).text("kind", wishes.kind == IoKind::read ? "read" : "write");
  json.number("bytes", wishes.bytes).number("depth", wishes.depth).boolean("fixed_buffers", drive.info().fixed_buffers);
  json.number("requests", load.done).number("error", static_cast<uint64_t>(load.error));
  json.real("mib_per_second", static_cast<double>(load.done * wishes.bytes) / (1 << 20) / seconds);
  json.real("processor_us_per_request", spent * 1e6 / static_cast<double>(std::max<uint64_t>(load.done, 1)));
  std::printf("%s\n", json.end_object().take().c_str());
  return load.error == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  Wishes wishes;
  const std::string what = count > 2 ? words[2] : "";
  if (what != "read" && what != "write") {
    std::fprintf(stderr, "cairn-drive-bench PATH read|write [--bytes N] [--depth N] [--seconds N] [--registered]\n");
    return 2;
  }
  wishes.path = words[1];
  wishes.kind = what == "read" ? IoKind::read : IoKind::write;
  for (int i = 3; i < count; ++i) {
    const std::string word = words[i];
    uint64_t ignored = 0;
    uint64_t& value = word == "--bytes"     ? wishes.bytes
                      : word == "--depth"   ? wishes.depth
                      : word == "--seconds" ? wishes.seconds
                                            : ignored;
    if (word == "--registered") {
      wishes.registered = true;
    } else if (i + 1 < count) {
      value = std::strtoull(words[++i], nullptr, 10);
    }
  }
  return measure(wishes);
}
