//! Senders of several kinds against the decision, in simulated time.
use super::*;

/// What a round and its answer take.
const ROUND_US: u64 = 50;

/// Runs `until_us` of senders; returns frames, and the times of the rounds that were looked away
/// after.
fn run(pace: &mut Pace, until_us: u64, waited_for: bool, mut load: impl Load) -> (u64, Vec<u64>) {
    let (mut now_us, mut frames, mut away_at) = (pace.window_from_us, pace.sends_from, Vec::new());
    let (first, mut followed) = (frames, false);
    let end_us = now_us + until_us;
    while now_us < end_us {
        // A core without work is woken by the next arrival.
        now_us = now_us.max(load.next_us(now_us));
        frames += load.take(now_us);
        now_us += ROUND_US;
        let since_look_us = if followed { ROUND_US } else { 0 };
        let seen = seen(frames, 0, waited_for);
        let away_us = pace.after_round(now_us, seen, since_look_us).unwrap_or(0);
        followed = away_us > 0;
        if followed {
            away_at.push(now_us);
        }
        now_us += away_us;
    }
    (frames - first, away_at)
}

fn seen(frames: u64, pulls: u64, waits: bool) -> Seen {
    let listening = Listening {
        pulls,
        waits,
        ..Listening::default()
    };
    Seen { frames, listening }
}

trait Load {
    fn next_us(&self, now_us: u64) -> u64;
    fn take(&mut self, now_us: u64) -> u64;
}

/// Sends whatever the answers do.
struct Paced {
    every_us: u64,
    due_us: u64,
}

impl Load for Paced {
    fn next_us(&self, _now_us: u64) -> u64 {
        self.due_us
    }

    fn take(&mut self, now_us: u64) -> u64 {
        let mut taken = 0;
        while self.due_us <= now_us {
            self.due_us += self.every_us;
            taken += 1;
        }
        taken
    }
}

/// Stands still for 30 of 130 ms, and makes up for it.
struct Stalling(Paced);

impl Stalling {
    fn still_until_us(now_us: u64) -> u64 {
        let since_us = now_us % 130_000;
        if since_us < 30_000 {
            now_us - since_us + 30_000
        } else {
            now_us
        }
    }
}

impl Load for Stalling {
    fn next_us(&self, now_us: u64) -> u64 {
        Self::still_until_us(self.0.next_us(now_us))
    }

    fn take(&mut self, now_us: u64) -> u64 {
        if Self::still_until_us(now_us) > now_us {
            return 0;
        }
        self.0.take(now_us)
    }
}

/// Each of `clients` sends again some time after its answer.
struct Waiting {
    clients: u64,
    think_us: u64,
    due_us: u64,
}

impl Load for Waiting {
    fn next_us(&self, _now_us: u64) -> u64 {
        self.due_us
    }

    fn take(&mut self, now_us: u64) -> u64 {
        self.due_us = now_us + ROUND_US + self.think_us;
        self.clients
    }
}

fn paced(rate: u64, from_us: u64) -> Paced {
    Paced {
        every_us: 1_000_000 / rate,
        due_us: from_us,
    }
}

fn waiting(clients: u64) -> Waiting {
    Waiting {
        clients,
        think_us: 80,
        due_us: 0,
    }
}

#[test]
fn senders_with_a_rate_of_their_own_are_gathered() {
    let mut pace = Pace::new(500);
    let (frames, away_at) = run(&mut pace, 10_000_000, false, paced(10_000, 0));
    assert!((99_000..=101_000).contains(&frames), "{frames}");
    // About 6 frames a round nearly all of the time.
    assert!(
        (15_000..20_000).contains(&away_at.len()),
        "{}",
        away_at.len()
    );
    assert!(away_at[0] < 300_000, "{}", away_at[0]);
}

#[test]
fn senders_that_stand_still_now_and_then_are_gathered_all_the_same() {
    for from_us in (0..130_000).step_by(3_000) {
        let mut pace = Pace::new(1_000);
        let load = Stalling(paced(10_000, from_us));
        let (_, away_at) = run(&mut pace, 20_000_000, false, load);
        assert!(away_at.len() > 19_000, "from {from_us}: {}", away_at.len());
    }
}

#[test]
fn senders_that_wait_for_answers_are_left_alone() {
    for clients in [1, 2, 4, 6] {
        let mut pace = Pace::new(500);
        let (frames, away_at) = run(&mut pace, 300_000_000, false, waiting(clients));
        let free = 300_000_000 / (2 * ROUND_US + 80) * clients;
        assert!(frames * 1000 >= free * 995, "{clients}: {frames} of {free}");
        // Tried again now and then, ever more rarely.
        assert!((100..2_000).contains(&away_at.len()), "{}", away_at.len());
        let late = away_at.iter().filter(|at| **at > 150_000_000).count();
        assert!(late < away_at.len() / 3, "{late} of {}", away_at.len());
    }
}

#[test]
fn few_or_very_many_frames_are_not_gathered() {
    let mut pace = Pace::new(500);
    assert_eq!(run(&mut pace, 5_000_000, false, paced(2_000, 0)).1, []);
    // Flat out: each round finds plenty.
    let mut pace = Pace::new(500);
    assert_eq!(run(&mut pace, 5_000_000, false, waiting(64)).1, []);
    // Switched off.
    let mut pace = Pace::new(0);
    assert_eq!(run(&mut pace, 5_000_000, false, paced(10_000, 0)).1, []);
}

#[test]
fn senders_that_begin_to_wait_are_noticed() {
    let mut pace = Pace::new(500);
    let (_, away_at) = run(&mut pace, 2_000_000, false, paced(10_000, 0));
    assert!(!away_at.is_empty());
    let from_us = pace.window_from_us;
    let mut load = waiting(2);
    load.due_us = from_us;
    let (_, away_at) = run(&mut pace, 30_000_000, false, load);
    let late = away_at.iter().filter(|at| **at > from_us + 6_000_000);
    let late = late.count();
    assert!(late < 300, "{late} of {}", away_at.len());
}

#[test]
fn a_waiting_consumer_bounds_the_delay() {
    let mut pace = Pace::new(1_000);
    let mut longest = 0;
    let (mut now_us, mut frames) = (0, 0);
    for _ in 0..20_000 {
        now_us += 100;
        frames += 1;
        let away_us = pace.after_round(now_us, seen(frames, 0, true), 0);
        longest = longest.max(away_us.unwrap_or(0));
    }
    assert_eq!(longest, WAITED_FOR_US);
    assert_eq!(Pace::new(u64::MAX).max_us, COALESCE_US_MAX);
}

/// A consumer of a busy queue: its pull comes back while requests gather, finds the next messages
/// and never waits. Its pulls become fewer when it gets more at a time, the sends don't.
#[test]
fn pulls_that_follow_messages_are_no_senders() {
    let mut pace = Pace::new(1_000);
    let (mut now_us, mut sends, mut pulls) = (0, 0, 0);
    let (mut rounds, mut gathered, mut longest_us) = (0, 0, 0);
    while now_us < 10_000_000 {
        rounds += 1;
        pulls += 1;
        let seen = seen(sends + pulls, pulls, false);
        let away_us = pace.after_round(now_us, seen, 0).unwrap_or(0);
        gathered += u64::from(away_us > 0);
        longest_us = longest_us.max(away_us);
        // At 5,000 a second: one, or what has gathered.
        let next_us = (now_us + away_us + ROUND_US).max((sends + 1) * 200);
        sends = next_us / 200;
        now_us = next_us;
    }
    assert_eq!(longest_us, WAITED_FOR_US);
    assert!(gathered * 10 > rounds * 9, "{gathered} of {rounds}");
}

#[test]
fn what_is_sent_to_a_waiting_consumer_counts_twice() {
    let gathered = |rate, waits| {
        let mut pace = Pace::new(WAITED_FOR_US);
        !run(&mut pace, 1_000_000, waits, paced(rate, 0))
            .1
            .is_empty()
    };
    assert!(gathered(5_000, true) && !gathered(5_000, false));
    assert!(gathered(9_000, false) && !gathered(3_000, true));
}

#[test]
fn work_is_taken_off_the_time_between_two_looks() {
    let mut pace = Pace::new(1_000);
    run(&mut pace, 1_000_000, false, paced(10_000, 0));
    let (at_us, frames) = (pace.window_from_us, pace.sends_from);
    let mut away_us = |since_us| pace.after_round(at_us, seen(frames, 0, false), since_us);
    assert_eq!((away_us(0), away_us(300)), (Some(1_000), Some(700)));
    assert_eq!(away_us(1_000 - AWAY_US_MIN), Some(AWAY_US_MIN));
    // Time for the next look, which isn't the end of gathering.
    assert_eq!((away_us(990), away_us(5_000)), (Some(0), Some(0)));
}

/// The real clock and thread.
#[test]
fn a_core_looks_away_and_counts_it() {
    let (clock, metrics) = (Clock::new(), CoreMetrics::new());
    let mut coalescing = Coalescing::new(300, Rc::clone(&clock), Rc::clone(&metrics));
    let begin_us = clock.mono_us_now();
    let mut asleep = None;
    while asleep.is_none() && clock.mono_us_now() - begin_us < 10_000_000 {
        std::thread::sleep(Duration::from_micros(100));
        let round_us = clock.mono_us_now();
        // One frame every 50 us.
        let frames = (round_us - begin_us) / 50;
        metrics.count(|counts| counts.frames_in = frames);
        coalescing.after_round(Listening::default);
        if metrics.counts().gatherings > 0 {
            asleep = Some(clock.mono_us_now() - round_us);
        }
    }
    assert!(asleep.is_some_and(|us| us >= 300), "{asleep:?}");
}

/// Readers of a backlog wait for the device in between: their pulls come steadily, too, and a core
/// that looked away found each piece a look later. 440,000 messages a second became 90,000.
#[test]
fn nothing_gathers_while_a_backlog_is_read() {
    let mut pace = Pace::new(1_200);
    let mut gathered = |from_us: u64, reads: bool| {
        let rounds = (from_us..from_us + 2_000_000).step_by(100);
        let away = rounds.filter(|now_us| {
            let mut seen = seen(now_us / 100, 0, false);
            // A read is not under way at each look.
            seen.listening.reads_device = reads && now_us % 700 == 0;
            pace.after_round(*now_us, seen, 0).is_some()
        });
        away.count()
    };
    assert!(gathered(0, false) > 10_000);
    assert!(gathered(2_000_000, true) <= 7);
    assert!(gathered(4_000_000, false) > 10_000);
}

#[test]
fn doubts_from_before_a_backlog_was_read_do_not_count() {
    let mut pace = Pace::new(1_200);
    pace.doubts = 1;
    let mut seen = seen(0, 0, false);
    seen.listening.reads_device = true;
    assert_eq!(pace.after_round(1_000, seen, 0), None);
    assert_eq!((pace.doubts, pace.phase), (0, Phase::NEW));
}
