//! Bytes in flight: a bound that many can draw from, given back on drop.
//!
//! **Owns** the count of bytes charged against one bound.
//! **Lives on** one data core; not `Send`, no lock.
//! **Invariants** `used` never exceeds `limit` except by one charge that is larger than the whole
//! limit while nothing else is charged, so that a single large frame cannot wait for ever.
//! **Limits** the bound given at construction.
//! **Not here** what to do when a charge is refused: the caller answers busy, waits or closes;
//! a bound of all cores together ([`shared`]).

pub mod shared;

use std::cell::Cell;
use std::rc::Rc;

/// A bound in bytes. Clone the `Rc` to share it.
#[derive(Debug)]
pub struct Budget {
    name: &'static str,
    limit: usize,
    used: Cell<usize>,
    peak: Cell<usize>,
    refused: Cell<u64>,
}

/// Bytes drawn from a [`Budget`]; given back on drop.
#[derive(Debug)]
pub struct Charge {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Budget {
    /// A budget called `name` of `limit` bytes.
    pub fn new(name: &'static str, limit: usize) -> Rc<Self> {
        Rc::new(Self {
            name,
            limit,
            used: Cell::new(0),
            peak: Cell::new(0),
            refused: Cell::new(0),
        })
    }

    /// Draws `bytes`, or `None` when that would pass the limit.
    pub fn try_charge(self: &Rc<Self>, bytes: usize) -> Option<Charge> {
        self.draw(bytes, 0).then(|| Charge {
            budget: Rc::clone(self),
            bytes,
        })
    }

    /// Draws `bytes` for somebody who has `held` already.
    fn draw(&self, bytes: usize, held: usize) -> bool {
        let used = self.used.get();
        let wanted = used.saturating_add(bytes);
        if wanted > self.limit && used > held {
            self.refused.set(self.refused.get() + 1);
            return false;
        }
        self.used.set(wanted);
        self.peak.set(self.peak.get().max(wanted));
        true
    }

    /// The budget's name, for remarks and metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The bound in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes drawn now.
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// The most bytes ever drawn at once.
    pub fn peak(&self) -> usize {
        self.peak.get()
    }

    /// How many charges were refused.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }
}

impl Charge {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Draws `bytes` more; false, and nothing drawn, when that would pass the limit.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let drawn = self.budget.draw(bytes, self.bytes);
        if drawn {
            self.bytes += bytes;
        }
        drawn
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget
            .used
            .set(self.budget.used.get().saturating_sub(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_past_the_limit_and_gives_back() {
        let budget = Budget::new("test", 100);
        let mut first = budget.try_charge(60).unwrap();
        assert!(budget.try_charge(41).is_none());
        assert!(first.grow(40));
        assert_eq!((budget.used(), first.bytes()), (100, 100));
        drop(first);
        assert_eq!(budget.used(), 0);
        assert_eq!((budget.peak(), budget.refused()), (100, 1));
    }

    #[test]
    fn one_oversize_charge_passes_alone() {
        let budget = Budget::new("test", 10);
        let large = budget.try_charge(16).unwrap();
        assert!(budget.try_charge(1).is_none());
        drop(large);
        assert!(budget.try_charge(1).is_some());
    }

    #[test]
    fn a_charge_grows_within_the_limit_and_past_it_alone() {
        let budget = Budget::new("test", 10);
        let mut first = budget.try_charge(4).unwrap();
        let other = budget.try_charge(4).unwrap();
        assert!(first.grow(2) && !first.grow(1));
        assert_eq!((budget.used(), first.bytes()), (10, 6));
        drop(other);
        assert!(first.grow(10));
        assert_eq!((budget.used(), first.bytes()), (16, 16));
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
