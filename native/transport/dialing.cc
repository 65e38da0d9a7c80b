#include "transport/dialing.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/background.h"
#include "base/clock.h"

namespace cairn {

namespace {

constexpr int kStaggerMs = 250;  // between the beginnings of two addresses; less where there are many for the time
constexpr int kQueuePauseMs = 10;
constexpr size_t kPlacesMost = 32;

Error gave_up(const std::string& what, Patience& patience, const char* too_late) {
  if (patience.interrupted()) return Error{ECANCELED, what + ": interrupted", 0};
  return Error{ETIMEDOUT, what + ": " + too_late, 0};
}

// --- names -----------------------------------------------------------------------------------------------

// Shared with the thread that looks it up, which may take longer than anybody waits.
struct Lookup {
  std::string host, port;
  std::mutex lock;
  std::condition_variable changed;
  bool done = false;
  int code = 0, number = 0;
  Addresses found;
};

int look_up(const std::string& host, const std::string& port, int flags, Addresses& found) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | flags;
  addrinfo* list = nullptr;
  const int code = getaddrinfo(host.c_str(), port.c_str(), &hints, &list);
  if (code == 0) found.reset(list);
  return code;
}

// --- several addresses -----------------------------------------------------------------------------------

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int fd() const { return fd_; }
  int take() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

struct Attempt {
  Place place;
  Socket socket;
};

bool goes_on(int number) {
  return number == EINPROGRESS || number == EALREADY || number == EINTR;
}

// Begins, or looks how far it is: 0, or an errno. A second call for one socket says what became of the first.
int try_connect(const Attempt& attempt) {
  if (::connect(attempt.socket.fd(), attempt.place.name, attempt.place.length) == 0) return 0;
  return errno == EISCONN ? 0 : errno;
}

// Why there is no connection, and what to do about it.
Error cannot_connect(const Address& address, int number) {
  const std::string what = "cannot connect to " + to_url(address);
  const bool local = address.kind == Address::Kind::shm;
  switch (number) {
    case ENOENT:
      return Error::from_errno(number, what, local ? "; the service has not made its socket there" : "");
    case EACCES:
    case EPERM:
      if (local) return Error::from_errno(number, what, "; only the user who runs the service may open its socket");
      return Error::from_errno(number, what, "; a firewall, or a security module of this host, forbids it");
    default:
      return Error::from_errno(number, what);
  }
}

// Connects to one of several places; the first that answers wins.
class Race {
 public:
  Race(const Address& address, std::vector<Place> places, Patience& patience)
      : address_(address), places_(std::move(places)), patience_(patience) {
    CAIRN_CHECK(!places_.empty(), "a host that was found has no address");
    const int share_ms = patience.left_ms() / static_cast<int>(places_.size() + 1);
    stagger_ms_ = std::clamp(share_ms, 1, kStaggerMs);
  }

  Result<int> run() {
    while (!patience_.over()) {
      if (next_ < places_.size() && (running_.empty() || stagger_.left_ms() == 0)) begin_next();
      if (winner_ >= 0) return winner_;
      if (running_.empty() && next_ == places_.size()) return cannot_connect(address_, number_);
      if (running_.empty()) continue;
      await();
      if (winner_ >= 0) return winner_;
    }
    const bool full = number_ == EAGAIN;
    return gave_up("cannot connect to " + to_url(address_), patience_,
                   full ? "its queue of connections stays full; the service is overloaded, or hangs"
                        : "it does not answer in time");
  }

 private:
  void begin_next() {
    const Place place = places_[next_++];
    stagger_ = Patience(system_clock().now_ms() + static_cast<uint64_t>(stagger_ms_), nullptr);
    const int fd = socket(place.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
      number_ = errno;
      return;
    }
    running_.push_back({place, Socket(fd)});
    look(running_.size() - 1);
  }

  // Whether the attempt goes on.
  bool look(size_t index) {
    Attempt& attempt = running_[index];
    const int number = try_connect(attempt);
    if (goes_on(number)) return true;
    if (number == EAGAIN) {  // the service's queue of connections is full just now
      number_ = EAGAIN;
      queued_ = true;
      return true;
    }
    if (number == 0) {
      winner_ = attempt.socket.take();
    } else {
      number_ = number;
    }
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
    return false;
  }

  void await() {
    const bool more = next_ < places_.size();
    const int most_ms = more ? std::max(stagger_.left_ms(), 1) : patience_.left_ms();
    if (std::exchange(queued_, false)) {
      patience_.pause(std::min(most_ms, kQueuePauseMs));
    } else {
      polled_.clear();
      for (const Attempt& one : running_) polled_.push_back({one.socket.fd(), POLLOUT, 0});
      if (patience_.poll(polled_, most_ms) <= 0) return;
    }
    for (size_t i = running_.size(); i-- > 0 && winner_ < 0;) look(i);
  }

  const Address& address_;
  std::vector<Place> places_;
  Patience& patience_;
  Patience stagger_{0, nullptr};
  int stagger_ms_ = 0;
  size_t next_ = 0;
  std::vector<Attempt> running_;
  std::vector<pollfd> polled_;
  bool queued_ = false;
  int number_ = EADDRNOTAVAIL;  // the last that failed
  int winner_ = -1;
};

}  // namespace

Result<Addresses> look_up_host(const Address& address, Patience& patience) {
  CAIRN_CHECK(address.kind != Address::Kind::shm, "the path of a socket is looked for among hosts");
  const std::string what = "cannot find the host '" + address.host + "'";
  Addresses numeric;
  if (look_up(address.host, std::to_string(address.port), AI_NUMERICHOST, numeric) == 0) return numeric;
  auto lookup = std::make_shared<Lookup>();
  lookup->host = address.host;
  lookup->port = std::to_string(address.port);
  auto started = start_thread("cairn-lookup", [lookup] {
    Addresses found;
    const int code = look_up(lookup->host, lookup->port, 0, found);
    const int number = errno;
    const std::lock_guard<std::mutex> held(lookup->lock);
    lookup->found = std::move(found);
    lookup->code = code;
    lookup->number = number;
    lookup->done = true;
    lookup->changed.notify_all();
  });
  if (!started) return Error{started.error().system_errno, what + ": " + started.error().message, 0};
  started.value().detach();
  std::unique_lock<std::mutex> held(lookup->lock);
  while (!lookup->done) {
    held.unlock();
    const bool over = patience.over();
    held.lock();
    if (lookup->done) break;
    if (over) return gave_up(what, patience, "no name server answers in time; name it by its address");
    const int slice_ms = std::min(patience.left_ms(), Interruption::kEveryMs);
    lookup->changed.wait_for(held, std::chrono::milliseconds(slice_ms));
  }
  if (lookup->code == 0) return std::move(lookup->found);
  if (lookup->code == EAI_SYSTEM) return Error::from_errno(lookup->number, what);
  return Error{0, what + ": " + gai_strerror(lookup->code), 0};
}

Result<int> dial(const Address& address, Patience& patience) {
  if (address.kind == Address::Kind::shm) {
    const sockaddr_un name = unix_address(address.path);
    return dial_one_of(address, {{reinterpret_cast<const sockaddr*>(&name), sizeof(name), AF_UNIX}}, patience);
  }
  auto found = look_up_host(address, patience);
  if (!found) return found.error();
  std::vector<Place> places;
  for (const addrinfo* at = found.value().get(); at != nullptr && places.size() < kPlacesMost; at = at->ai_next)
    places.push_back({at->ai_addr, at->ai_addrlen, at->ai_family});
  return dial_one_of(address, std::move(places), patience);
}

Result<int> dial_one_of(const Address& address, std::vector<Place> places, Patience& patience) {
  return Race(address, std::move(places), patience).run();
}

}  // namespace cairn
