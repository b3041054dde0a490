//! A data core on the simulated clock.
//!
//! **Owns** what the core has written for its connections and told the control plane.
//! **Lives on** a test's thread.
//! **Invariants** what a dead process still does in its last poll reaches nobody.
//! **Limits** one core.
//! **Not here** the clock and the tasks (`gantry_storage::sim_disk`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;

use bytes::BytesMut;
use gantry_protocol::command::Command;
use gantry_protocol::frame::take_frame;
use gantry_runtime::metrics::{Counts, Profile, Timing};
use gantry_runtime::net::PeerRef;
use gantry_storage::disk::Disk;
use gantry_storage::sim_disk::SimDisk;

use crate::data::host::Host;
use crate::data::router::CoreWord;
use crate::seam::{CoreNumber, OffsetChange, ToControl};

/// The host of one life.
pub struct SimHost {
    disk: SimDisk,
    outs: RefCell<BTreeMap<PeerSlot, BytesMut>>,
    offsets: RefCell<Vec<OffsetChange>>,
    profile: Profile,
}

type PeerSlot = u32;

impl SimHost {
    pub fn new(disk: &SimDisk) -> Self {
        Self {
            disk: disk.clone(),
            outs: RefCell::default(),
            offsets: RefCell::default(),
            profile: Profile::off(),
        }
    }

    /// All replies written so far.
    pub fn take_replies(&self) -> Vec<Command> {
        let mut replies = Vec::new();
        for (_, mut out) in self.outs.take() {
            while let Some(frame) = take_frame(&mut out).unwrap() {
                replies.push(Command::from_frame(&frame).unwrap());
            }
            assert!(out.is_empty(), "half a frame was written");
        }
        replies
    }

    /// Forgets all replies written so far, and keeps their memory; returns their bytes.
    pub fn drop_replies(&self) -> usize {
        let mut outs = self.outs.borrow_mut();
        let each = outs.values_mut().map(|out| {
            let bytes = out.len();
            out.clear();
            bytes
        });
        each.sum()
    }

    /// Offsets handed to the control plane, which are durable there.
    pub fn take_offsets(&self) -> Vec<OffsetChange> {
        self.offsets.take()
    }
}

impl Host for SimHost {
    fn write_timed(&self, peer: PeerRef, write: impl FnOnce(&mut BytesMut) -> Option<Timing>) {
        let mut out = self
            .outs
            .borrow_mut()
            .remove(&peer.slot)
            .unwrap_or_default();
        let before = out.len();
        write(&mut out);
        if self.disk.is_dead() {
            out.truncate(before);
        }
        self.outs.borrow_mut().insert(peer.slot, out);
    }

    fn wall_ms(&self) -> u64 {
        self.disk.now_ms()
    }

    fn wall_ms_now(&self) -> u64 {
        self.disk.now_ms()
    }

    fn mono_us(&self) -> u64 {
        self.disk.now_mono_us()
    }

    fn mono_us_now(&self) -> u64 {
        self.mono_us()
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn send_core(&self, _core: CoreNumber, word: CoreWord) -> Result<(), Box<CoreWord>> {
        panic!("there is one core: {word:?}")
    }

    fn offer_control(&self, message: ToControl) -> Result<(), Box<ToControl>> {
        if let ToControl::OffsetsChanged(rows) = message
            && !self.disk.is_dead()
        {
            self.offsets.borrow_mut().extend(rows);
        }
        Ok(())
    }

    fn close_peer(&self, peer: PeerRef) {
        panic!("a connection was closed: {peer:?}")
    }

    fn sleep_ms(&self, ms: u64) -> impl Future<Output = ()> + 'static {
        let disk = self.disk.clone();
        async move { disk.sleep_ms(ms).await }
    }

    fn breathe(&self) -> impl Future<Output = ()> + 'static {
        let disk = self.disk.clone();
        async move { disk.yield_now().await }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.disk.spawn(task);
    }
}
