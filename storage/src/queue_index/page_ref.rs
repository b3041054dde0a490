//! One line of a queue's page directory in 16 bytes.
//!
//! **Owns** the packing of first offset (48 bits), place (36 bits) and first store time (44 bits).
//! **Lives on** one data core; plain copies.
//! **Invariants** packing and unpacking are exact for values within their bits; larger ones
//! saturate, and no place is larger (`page_files` begins again at the first one).
//! **Limits** 2^48 offsets per queue, 4 TiB of index pages per shard at a time, store times to the
//! year 2527.
//! **Not here** the directory's order (`queue`).

use crate::index_pages::PAGE_UNIT_BYTES;
use crate::units::{QueueOffset, StoreTimestamp};

const OFFSET_BITS: u32 = 48;
const PLACE_BITS: u32 = 36;
const TIME_BITS: u32 = 44;
const OFFSET_MASK: u128 = (1 << OFFSET_BITS) - 1;
const PLACE_MASK: u128 = (1 << PLACE_BITS) - 1;
const TIME_MASK: u128 = (1 << TIME_BITS) - 1;

const _: () = assert!(OFFSET_BITS + PLACE_BITS + TIME_BITS == 128);

/// No place lies at this byte or behind: the last one stands for a page without a place.
pub(crate) const PLACES_END_BYTE: u64 = ((1 << PLACE_BITS) - 1) * PAGE_UNIT_BYTES as u64;

/// Where a page lies in the shard's index page files, in units of `PAGE_UNIT_BYTES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PagePlace(pub u64);

impl PagePlace {
    /// The byte position, continuous over all page files.
    pub fn byte_position(self) -> u64 {
        self.0.saturating_mul(PAGE_UNIT_BYTES as u64)
    }

    /// The place at byte `position`, which is a multiple of the unit.
    pub fn at_byte(position: u64) -> Self {
        Self(position / PAGE_UNIT_BYTES as u64)
    }
}

/// A page of a queue: what it starts with and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRef([u64; 2]);

const _: () = assert!(size_of::<PageRef>() == 16);

impl PageRef {
    /// A page that is not on the device yet, or at `place`.
    pub fn new(first: QueueOffset, time: StoreTimestamp, place: Option<PagePlace>) -> Self {
        debug_assert!(place.is_none_or(|place| u128::from(place.0) < PLACE_MASK));
        let place = place.map_or(PLACE_MASK, |place| u128::from(place.0).min(PLACE_MASK));
        let time = u128::from(time.0).min(TIME_MASK);
        let offset = u128::from(first.0).min(OFFSET_MASK);
        Self::from_bits((offset << (PLACE_BITS + TIME_BITS)) | (place << TIME_BITS) | time)
    }

    /// From its 128 bits, as in a snapshot.
    pub fn from_bits(bits: u128) -> Self {
        let part = |value: u128| u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0);
        Self([part(bits >> 64), part(bits)])
    }

    /// As 128 bits, for a snapshot.
    pub fn bits(self) -> u128 {
        let [high, low] = self.0;
        (u128::from(high) << 64) | u128::from(low)
    }

    fn field(self, shift: u32, mask: u128) -> u64 {
        u64::try_from((self.bits() >> shift) & mask).unwrap_or(0)
    }

    /// Offset of the page's first entry.
    pub fn first_offset(self) -> QueueOffset {
        QueueOffset(self.field(PLACE_BITS + TIME_BITS, OFFSET_MASK))
    }

    /// Store time of the page's first entry.
    pub fn first_time(self) -> StoreTimestamp {
        StoreTimestamp(self.field(0, TIME_MASK))
    }

    /// Where it lies; `None` while it is only in memory.
    pub fn place(self) -> Option<PagePlace> {
        let place = self.field(TIME_BITS, PLACE_MASK);
        (u128::from(place) != PLACE_MASK).then_some(PagePlace(place))
    }

    /// The same page at `place`.
    pub fn placed(self, place: PagePlace) -> Self {
        Self::new(self.first_offset(), self.first_time(), Some(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        let (first, time) = (QueueOffset((1 << 48) - 2), StoreTimestamp((1 << 44) - 2));
        let fresh = PageRef::new(first, time, None);
        assert_eq!(
            (fresh.first_offset(), fresh.first_time(), fresh.place()),
            (first, time, None)
        );
        let placed = fresh.placed(PagePlace((1 << 36) - 2));
        assert_eq!(placed.place(), Some(PagePlace((1 << 36) - 2)));
        assert_eq!((placed.first_offset(), placed.first_time()), (first, time));
        assert_eq!(PageRef::from_bits(placed.bits()), placed);
    }
}
