//! Cores without an executor: time stands still until told, tasks run when asked.
//!
//! **Owns** what the cores of a test share: time, roads, out buffers, tasks.
//! **Lives on** a test's thread.
//! **Invariants** words between cores keep their order; no task runs before it is asked to.
//! **Limits** none.
//! **Not here** the real host (`data::seat`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use gantry_protocol::command::Command;
use gantry_protocol::frame::take_frame;
use gantry_runtime::metrics::{Counts, Profile, Run, Timing};
use gantry_runtime::net::PeerRef;

use crate::data::host::Host;
use crate::data::router::CoreWord;
use crate::seam::{CoreNumber, ToControl};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What the cores of a test share.
pub struct FakeWorld {
    words: RefCell<Vec<Vec<CoreWord>>>,
    outs: RefCell<HashMap<PeerRef, BytesMut>>,
    control: RefCell<Vec<ToControl>>,
    tasks: RefCell<Vec<Task>>,
    /// How often a task let the others run.
    pub breaths: Cell<u32>,
    pub now_us: Cell<u64>,
    /// How long it takes to read the clock.
    pub look_us: Cell<u64>,
    /// By how much the wall clock was set forward.
    pub wall_step_ms: Cell<u64>,
    pub control_is_full: Cell<bool>,
    pub roads_are_full: Cell<bool>,
    pub has_reply_room: Cell<bool>,
    /// Sleeps end when their task is polled again; otherwise never.
    pub naps: Cell<bool>,
}

/// One core's host.
pub struct FakeHost {
    world: Rc<FakeWorld>,
    core: CoreNumber,
    profile: Profile,
}

impl FakeWorld {
    pub fn new(cores: CoreNumber) -> Rc<Self> {
        Rc::new(Self {
            words: RefCell::new((0..cores).map(|_| Vec::new()).collect()),
            outs: RefCell::default(),
            control: RefCell::default(),
            tasks: RefCell::default(),
            breaths: Cell::new(0),
            now_us: Cell::new(1_000_000),
            look_us: Cell::new(0),
            wall_step_ms: Cell::new(0),
            control_is_full: Cell::new(false),
            roads_are_full: Cell::new(false),
            has_reply_room: Cell::new(true),
            naps: Cell::new(false),
        })
    }

    pub fn host(self: &Rc<Self>, core: CoreNumber) -> Rc<FakeHost> {
        Rc::new(FakeHost {
            world: Rc::clone(self),
            core,
            profile: Profile::off(),
        })
    }

    pub fn take_words(&self, core: CoreNumber) -> Vec<CoreWord> {
        std::mem::take(&mut self.words.borrow_mut()[usize::from(core)])
    }

    pub fn is_quiet(&self) -> bool {
        self.words.borrow().iter().all(Vec::is_empty)
    }

    /// Polls every task once; true when one finished.
    pub fn run_tasks(&self) -> bool {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        let before = tasks.len();
        let mut left = Vec::new();
        for mut task in tasks {
            let mut cx = Context::from_waker(Waker::noop());
            if task.as_mut().poll(&mut cx).is_pending() {
                left.push(task);
            }
        }
        let finished = left.len() < before;
        self.tasks.borrow_mut().extend(left);
        finished
    }

    pub fn take_replies(&self, peer: PeerRef) -> Vec<Command> {
        let mut out = self.outs.borrow_mut().remove(&peer).unwrap_or_default();
        let mut replies = Vec::new();
        while let Some(frame) = take_frame(&mut out).unwrap() {
            replies.push(Command::from_frame(&frame).unwrap());
        }
        assert!(out.is_empty());
        replies
    }

    pub fn take_control(&self) -> Vec<ToControl> {
        std::mem::take(&mut self.control.borrow_mut())
    }

    pub fn pass_ms(&self, ms: u64) {
        self.now_us.set(self.now_us.get() + ms * 1000);
    }
}

impl Host for FakeHost {
    fn has_reply_room(&self, _: PeerRef) -> bool {
        self.world.has_reply_room.get()
    }

    fn has_unread(&self, peer: PeerRef) -> bool {
        let outs = self.world.outs.borrow();
        outs.get(&peer).is_some_and(|out| !out.is_empty())
    }

    fn write_timed(&self, peer: PeerRef, write: impl FnOnce(&mut BytesMut) -> Option<Timing>) {
        if peer.core == self.core {
            let mut out = self
                .world
                .outs
                .borrow_mut()
                .remove(&peer)
                .unwrap_or_default();
            if let Some(timing) = write(&mut out) {
                let run = Run { timing, count: 1 };
                self.profile.replied(&[run], self.world.now_us.get());
            }
            self.world.outs.borrow_mut().insert(peer, out);
            return;
        }
        let mut out = BytesMut::new();
        let timing = write(&mut out);
        if !out.is_empty() {
            let frames: Bytes = out.freeze();
            self.send_core(peer.core, CoreWord::Frames(peer, frames, timing, None))
                .unwrap();
        }
    }

    fn wall_ms(&self) -> u64 {
        1_795_384_800_000 + self.world.wall_step_ms.get() + self.world.now_us.get() / 1000
    }

    fn wall_ms_now(&self) -> u64 {
        self.wall_ms()
    }

    fn mono_us(&self) -> u64 {
        self.world.now_us.get()
    }

    fn mono_us_now(&self) -> u64 {
        let now_us = self.mono_us() + self.world.look_us.get();
        self.world.now_us.set(now_us);
        now_us
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn send_core(&self, core: CoreNumber, word: CoreWord) -> Result<(), Box<CoreWord>> {
        if self.world.roads_are_full.get() {
            return Err(Box::new(word));
        }
        self.world.words.borrow_mut()[usize::from(core)].push(word);
        Ok(())
    }

    fn offer_control(&self, message: ToControl) -> Result<(), Box<ToControl>> {
        if self.world.control_is_full.get() {
            return Err(Box::new(message));
        }
        self.world.control.borrow_mut().push(message);
        Ok(())
    }

    fn close_peer(&self, peer: PeerRef) {
        self.world.outs.borrow_mut().remove(&peer);
    }

    fn sleep_ms(&self, _ms: u64) -> impl Future<Output = ()> + 'static {
        let naps = self.world.naps.get();
        async move {
            if !naps {
                std::future::pending::<()>().await;
            }
            futures_lite::future::yield_now().await;
        }
    }

    fn breathe(&self) -> impl Future<Output = ()> + 'static {
        self.world.breaths.set(self.world.breaths.get() + 1);
        std::future::ready(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.tasks.borrow_mut().push(Box::pin(task));
    }
}
