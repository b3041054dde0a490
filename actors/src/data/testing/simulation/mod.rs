//! The simulation: the real queue actors, shard, log, tail, indexes and recovery on a simulated
//! disk and clock, killed and cut off at random, checked against what clients were told.
//!
//! **Owns** runs of a seed, the tests, the long run (docs/TESTING.md says how to start it).
//! **Lives on** tests' threads; a world has one.
//! **Invariants** a seed decides everything: twice the same seed gives the same trace.
//! **Limits** none.
//! **Not here** storage alone (`gantry_storage`'s own tests).

mod audit;
mod damage;
mod host;
mod life;
mod lost_halves;
mod mix;
mod oracle;
mod retention;
mod runs;
mod send_timing;
mod starts;
mod steps;
mod world;

use self::mix::Mix;
use self::world::{Death, Totals, World};
use crate::data::core::OTHERS_MS;

impl World {
    /// Lives and deaths until so many requests were made.
    fn run(&self, requests: u64) {
        while self.totals.borrow().requests < requests {
            if !self.start() {
                self.is_over.set(true);
                return;
            }
            let whole = self.choices.chance(15);
            self.disk.block_on(self.audit(whole));
            self.one_life();
        }
        // Nothing of the end is left out: killed, cut off, everything read.
        for death in [Death::Kill, Death::Power] {
            if !self.start() {
                self.is_over.set(true);
                return;
            }
            self.disk.block_on(self.audit(death == Death::Power));
            self.die(death);
        }
    }

    fn one_life(&self) {
        self.committed.borrow_mut().clear();
        if self.mix.rot && self.choices.chance(40) {
            self.rot_some();
            self.disk.block_on(self.read_everything());
        }
        if self.mix.lost_sectors && self.losses.chance(40) {
            self.lose_some();
            // Some are only met by what happens later.
            if self.losses.chance(50) {
                self.disk.block_on(self.read_everything());
            }
        }
        if self.mix.die_in_tail && self.choices.chance(40) {
            let tail = self.choices.below(self.tails.len() as u64);
            let stores = self.choices.one_of(&[100, 3_000, 30_000]);
            let tail = &self.tails[usize::try_from(tail).unwrap()];
            tail.die_after(self.choices.below(stores));
        }
        if self.mix.die_at_await && self.choices.chance(60) {
            let polls = self.choices.one_of(&[100, 1_000, 10_000]);
            self.disk.die_after(1 + self.choices.below(polls));
        }
        let lived = if self.mix.short_lives && self.choices.chance(80) {
            self.disk.run(self.live_shortly())
        } else {
            self.disk.run(self.live())
        };
        let lived = lived.is_some();
        let mut death = if self.mix.power_cuts && self.choices.chance(50) {
            Death::Power
        } else {
            Death::Kill
        };
        if lived && self.choices.chance(15) {
            self.disk.clear_faults();
            self.disk.set_capacity(u64::MAX);
            if self.disk.run(self.end_orderly()) == Some(true) {
                death = Death::Clean;
            }
        }
        self.disk.set_capacity(u64::MAX);
        self.die(death);
        if self.choices.chance(60) {
            self.restore();
        }
    }

    /// As a seat stops its core; whether all is on the device then.
    async fn end_orderly(&self) -> bool {
        let (core, stores) = {
            let running = self.running.borrow();
            let running = running.as_ref().expect("it lives");
            (running.core.clone(), running.stores.clone())
        };
        core.stop(OTHERS_MS).await;
        core.hand_over_offsets().await;
        let mut clean = true;
        for store in &stores {
            let shut = store.shutdown().await.is_ok();
            assert!(
                shut || self.faults_count() > self.faults_before.get(),
                "not shut cleanly"
            );
            clean &= shut;
        }
        drop((core, stores));
        self.keep_offsets();
        clean
    }
}

/// What a run of a seed gives.
#[derive(Clone, Debug)]
pub struct Outcome {
    trace: u64,
    totals: Totals,
}

fn run_mix(seed: u64, mix: Mix, requests: u64) -> Outcome {
    let world = World::new(seed, mix);
    world.run(requests);
    let mut totals = world.totals.take();
    totals.given_up = world.given_up.get();
    totals.faults = world.disk.fault_counts();
    totals.simulated_ms = gantry_storage::disk::Disk::now_mono_us(&world.disk) / 1000;
    let trace = world.trace.get() ^ world.disk.trace();
    world.disk.kill();
    Outcome { trace, totals }
}

fn run_seed(seed: u64, requests: u64) -> Outcome {
    run_mix(seed, Mix::of(seed), requests)
}
