//! The tests, and the runs behind them: old seeds, fresh seeds, many seeds.
//!
//! **Owns** which seeds run, on how many threads, for how long; the report.
//! **Lives on** tests' threads.
//! **Invariants** a failing seed is named with the command that repeats it.
//! **Limits** what the environment asks for: see docs/TESTING.md.
//! **Not here** a world (`world`).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gantry_storage::disk::Disk;
use gantry_storage::shard_store::FlushMode;

use super::life::Manner;
use super::mix::Mix;
use super::world::{Death, Totals, World};
use super::{Outcome, run_mix, run_seed};

/// Seeds that once failed, and some that reach far: `seed requests # what it found`.
const CORPUS: &str = include_str!("corpus.txt");
/// Requests of a seed unless told otherwise.
const REQUESTS: u64 = 1_000;

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn requests() -> u64 {
    asked("GANTRY_SIM_OPS").unwrap_or(REQUESTS)
}

/// Runs a seed; a failure says how to see it again.
fn run_named(seed: u64, requests: u64) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run_seed(seed, requests))).unwrap_or_else(|fault| {
        eprintln!(
            "seed {seed} failed; again: GANTRY_SIM_SEED={seed} GANTRY_SIM_OPS={requests} \
             cargo test --release -p gantry-actors simulation::runs::one_seed -- --ignored --nocapture"
        );
        let fewest = fewest_requests(seed, requests);
        eprintln!("seed {seed} fails with {fewest} requests as well");
        resume_unwind(fault)
    })
}

/// The smallest number of requests, within a factor of two, with which a seed still fails.
fn fewest_requests(seed: u64, requests: u64) -> u64 {
    let mut fewest = requests;
    while fewest > 1 && catch_unwind(AssertUnwindSafe(|| run_seed(seed, fewest / 2))).is_err() {
        fewest /= 2;
    }
    fewest
}

fn add(sum: &mut Totals, totals: &Totals) {
    fn join(into: &mut BTreeMap<&'static str, u64>, from: &BTreeMap<&'static str, u64>) {
        for (what, count) in from {
            *into.entry(what).or_insert(0) += count;
        }
    }
    sum.requests += totals.requests;
    sum.messages += totals.messages;
    sum.acked += totals.acked;
    sum.refused += totals.refused;
    sum.records_read += totals.records_read;
    sum.lost_in_bounds += totals.lost_in_bounds;
    sum.read_errors += totals.read_errors;
    sum.refused_starts += totals.refused_starts;
    sum.given_up += totals.given_up;
    sum.simulated_ms += totals.simulated_ms;
    join(&mut sum.deaths, &totals.deaths);
    join(&mut sum.faults, &totals.faults);
}

fn report(many: &Many, started: Instant) {
    let Many { seeds, failed, sum } = many;
    let deaths: u64 = sum.deaths.values().sum();
    println!("{} seeds failed: {failed:?}", failed.len());
    println!(
        "{seeds} seeds, {} requests in {:.0} s",
        sum.requests,
        started.elapsed().as_secs_f64()
    );
    println!(
        "  {} messages sent, {} acknowledged, {} refused, {} records read, {} lost as allowed, {} \
         segments given up",
        sum.messages, sum.acked, sum.refused, sum.records_read, sum.lost_in_bounds, sum.given_up
    );
    println!(
        "  {} reads and {} starts refused because of faults; {} simulated hours",
        sum.read_errors,
        sum.refused_starts,
        sum.simulated_ms / 3_600_000
    );
    println!("  {deaths} deaths: {:?}", sum.deaths);
    println!("  faults: {:?}", sum.faults);
}

/// What many seeds gave.
#[derive(Default)]
struct Many {
    seeds: u64,
    failed: Vec<u64>,
    sum: Totals,
}

/// Runs seeds from `first` on, `seeds_max` of them or until it is late, on as many threads as
/// asked; a failure is named and the others go on.
fn run_many(first: u64, seeds_max: u64, until: Option<Instant>, requests: u64) -> Many {
    let taken = AtomicU64::new(0);
    let many = Mutex::new(Many::default());
    let one = || {
        loop {
            let nth = taken.fetch_add(1, Ordering::Relaxed);
            if nth >= seeds_max || until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
            let seed = first.wrapping_add(nth);
            let ran = catch_unwind(|| run_named(seed, requests));
            let mut many = many.lock().unwrap();
            many.seeds += 1;
            match ran {
                Ok(outcome) => add(&mut many.sum, &outcome.totals),
                Err(_) => many.failed.push(seed),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..asked("GANTRY_SIM_THREADS").unwrap_or(2) {
            scope.spawn(one);
        }
    });
    many.into_inner().unwrap()
}

#[test]
fn old_seeds() {
    let lines = CORPUS
        .lines()
        .map(|line| line.split('#').next().unwrap().trim());
    for line in lines.filter(|line| !line.is_empty()) {
        let (seed, requests) = line.split_once(' ').unwrap();
        let (seed, requests) = (seed.parse().unwrap(), requests.trim().parse().unwrap());
        run_named(seed, requests);
        // As it was when it found something: lost sectors and retention came later.
        let mix = Mix::of(seed);
        if mix.lost_sectors || mix.retention {
            let mix = Mix {
                lost_sectors: false,
                retention: false,
                ..mix
            };
            run_mix(seed, mix, requests);
        }
    }
}

#[test]
fn a_seed_gives_one_trace() {
    for seed in [1, 2, 3, 4, 50_000] {
        let (one, other) = (run_named(seed, 400), run_named(seed, 400));
        assert_eq!(one.trace, other.trace, "seed {seed}");
    }
    assert_ne!(run_named(1, 400).trace, run_named(2, 400).trace);
}

/// For `GANTRY_SIM_SECONDS` (2 unless told otherwise), from a seed nobody knows.
#[test]
fn fresh_seeds() {
    let started = Instant::now();
    let seconds = asked("GANTRY_SIM_SECONDS").unwrap_or(2);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let first = u64::try_from(now.unwrap().as_millis()).unwrap() * 10_000;
    let first = asked("GANTRY_SIM_FIRST").unwrap_or(first);
    println!("fresh seeds from {first} on");
    let until = started + Duration::from_secs(seconds);
    let many = run_many(first, u64::MAX, Some(until), requests());
    report(&many, started);
    assert!(many.seeds > 0 && many.failed.is_empty());
}

#[test]
#[ignore = "one seed: GANTRY_SIM_SEED, with GANTRY_SIM_OPS requests"]
fn one_seed() {
    let seed = asked("GANTRY_SIM_SEED").unwrap_or(1);
    println!("{:#?}", Mix::of(seed));
    let (one, other) = (run_seed(seed, requests()), run_seed(seed, requests()));
    println!("{:#?}", one.totals);
    assert_eq!(one.trace, other.trace, "the same seed twice");
}

#[test]
#[ignore = "long: GANTRY_SIM_SEEDS seeds with GANTRY_SIM_OPS requests each"]
fn many_seeds() {
    let started = Instant::now();
    let first = asked("GANTRY_SIM_FIRST").unwrap_or(0);
    let seeds = asked("GANTRY_SIM_SEEDS").unwrap_or(1_000);
    let many = run_many(first, seeds, None, requests());
    report(&many, started);
    assert!(many.failed.is_empty());
}

/// A short history: messages, a checkpoint, pages and keys written, quiet times, an orderly end.
async fn short_history(world: &World) {
    for round in 0..6 {
        for queue in [0, 0, 1] {
            world.produce(queue, Manner::Waits);
        }
        world.produce(1, Manner::Batch(6));
        world.pull(0, 0, None, true);
        world.disk.sleep_ms(1 + 7 * round).await;
        world.drain();
    }
    world.disk.sleep_ms(50).await;
    assert!(world.end_orderly().await);
}

fn history_world(seed: u64, flush: FlushMode) -> World {
    let world = World::new(seed, Mix::plain(flush));
    assert!(world.start());
    world
}

fn check_after(world: &World, death: Death) {
    world.die(death);
    assert!(world.start());
    world.disk.block_on(world.audit(true));
}

/// Crashes at every `stride`-th await (poll) of a history; returns how many.
fn crash_at_each_await(flush: FlushMode, death: Death, stride: u64) -> u64 {
    let whole = history_world(5, flush);
    let before = whole.disk.polls();
    whole.disk.block_on(short_history(&whole));
    let polls = whole.disk.polls() - before;
    check_after(&whole, Death::Clean);
    end(&whole);
    let mut crashes = 0;
    for at in (0..polls).step_by(usize::try_from(stride).unwrap()) {
        let world = history_world(5, flush);
        world.disk.die_after(at);
        assert!(
            world.disk.run(short_history(&world)).is_none(),
            "no death at {at}"
        );
        check_after(&world, death);
        end(&world);
        crashes += 1;
    }
    crashes
}

/// Kills a process that has much in its tail, then crashes at every await of the recovery.
fn crash_recovery_at_each_await(flush: FlushMode, death: Death, stride: u64) -> u64 {
    let killed = || {
        let world = history_world(6, flush);
        world.disk.block_on(async {
            for _ in 0..8 {
                world.produce(0, Manner::Waits);
                world.produce(1, Manner::Batch(20));
            }
            world.disk.sleep_us(700).await;
        });
        world.die(Death::Kill);
        world
    };
    let whole = killed();
    let before = whole.disk.polls();
    assert!(whole.start());
    let polls = whole.disk.polls() - before;
    end(&whole);
    let mut crashes = 0;
    for at in (0..polls).step_by(usize::try_from(stride).unwrap()) {
        let world = killed();
        world.disk.die_after(at);
        assert!(
            world.disk.run(world.open_stores()).is_none(),
            "no death at {at}"
        );
        world.died("death in recovery", death == Death::Power);
        assert!(world.start());
        world.disk.block_on(world.audit(true));
        end(&world);
        crashes += 1;
    }
    crashes
}

/// Dies in each store to the tail of a history.
fn die_in_each_store(flush: FlushMode, stride: u64) -> u64 {
    let whole = history_world(7, flush);
    let before = whole.tails[0].stores();
    whole.disk.block_on(short_history(&whole));
    let stores = whole.tails[0].stores() - before;
    end(&whole);
    let mut crashes = 0;
    for at in (0..stores).step_by(usize::try_from(stride).unwrap()) {
        let world = history_world(7, flush);
        world.tails[0].die_after(at);
        assert!(
            world.disk.run(short_history(&world)).is_none(),
            "no death at {at}"
        );
        check_after(&world, Death::Kill);
        end(&world);
        crashes += 1;
    }
    crashes
}

/// Frees a world's tasks, which hold its disk.
fn end(world: &World) {
    world.died("end", false);
}

/// All of them in the release profile, a part of them else.
const STRIDE: u64 = if cfg!(debug_assertions) { 13 } else { 1 };

#[test]
fn a_crash_at_every_await() {
    let mut crashes = 0;
    for flush in [FlushMode::Async, FlushMode::Sync] {
        for death in [Death::Kill, Death::Power] {
            crashes += crash_at_each_await(flush, death, STRIDE);
        }
    }
    println!("{crashes} crashes");
    assert!(crashes * STRIDE > 400, "{crashes}");
}

#[test]
fn a_crash_at_every_await_of_recovery() {
    let mut crashes = 0;
    for flush in [FlushMode::Async, FlushMode::Sync] {
        for death in [Death::Kill, Death::Power] {
            crashes += crash_recovery_at_each_await(flush, death, STRIDE);
        }
    }
    println!("{crashes} crashes");
    assert!(crashes * STRIDE > 200, "{crashes}");
}

#[test]
fn a_death_in_every_store_to_the_tail() {
    let mut crashes = 0;
    for flush in [FlushMode::Async, FlushMode::Sync] {
        crashes += die_in_each_store(flush, STRIDE);
    }
    println!("{crashes} deaths");
    assert!(crashes * STRIDE > 300, "{crashes}");
}
