// A circle of objects that take turns. The links lie in the objects, so nothing is allocated; the order is that of
// joining, so a run can be repeated. The objects leave before they are destroyed.
#pragma once

#include <cstddef>

#include "base/check.h"

namespace cairn {

template <class T>
struct RingLink {
  T* next = nullptr;  // nullptr: in no ring
  T* before = nullptr;
};

template <class T, RingLink<T> T::* kLink>
class Ring {
 public:
  bool empty() const { return at_ == nullptr; }
  size_t size() const { return size_; }
  // Whose turn it is; nullptr: the ring is empty.
  T* at() const { return at_; }
  void advance() { at_ = at_ == nullptr ? nullptr : (at_->*kLink).next; }
  // The other way round: the turn goes to whoever had it before.
  void retreat() { at_ = at_ == nullptr ? nullptr : (at_->*kLink).before; }
  static bool holds(const T& one) { return (one.*kLink).next != nullptr; }

  // Joins as the last to have its turn.
  void add(T& one) {
    CAIRN_CHECK(!holds(one), "an object joins a ring twice");
    CAIRN_CHECK((at_ == nullptr) == (size_ == 0), "a ring with members has nobody whose turn it is, or the reverse");
    ++size_;
    if (at_ == nullptr) {
      at_ = (one.*kLink).next = (one.*kLink).before = &one;
      return;
    }
    T* last = (at_->*kLink).before;
    (one.*kLink) = {at_, last};
    (last->*kLink).next = (at_->*kLink).before = &one;
  }

  // If it has the turn, that goes to the next.
  void remove(T& one) {
    CAIRN_CHECK(holds(one), "an object leaves a ring that it is not in");
    CAIRN_CHECK(size_ > 0, "an object leaves a ring that is empty");
    --size_;
    const RingLink<T> link = one.*kLink;
    CAIRN_CHECK((link.before->*kLink).next == &one, "the one before in a ring names another as the next");
    CAIRN_CHECK((link.next->*kLink).before == &one, "the next in a ring names another as the one before");
    CAIRN_CHECK((link.next == &one) == (size_ == 0), "the last of a ring is not alone in it");
    (link.before->*kLink).next = link.next;
    (link.next->*kLink).before = link.before;
    if (at_ == &one) at_ = size_ == 0 ? nullptr : link.next;
    (one.*kLink) = {};
  }

  template <class Each>
  void for_each(Each each) const {
    T* one = at_;
    for (size_t i = 0; i < size_; ++i, one = (one->*kLink).next) each(*one);
    CAIRN_CHECK(one == at_, "a ring has more members than it counts, or fewer");
  }

 private:
  T* at_ = nullptr;
  size_t size_ = 0;
};

}  // namespace cairn
