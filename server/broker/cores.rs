//! The data cores of a broker, from their seats to open ports.
//!
//! **Owns** the order of a core's start: recover, wait for the word, listen.
//! **Lives on** the main thread and each data core.
//! **Invariants** no port opens before every core has recovered its shards, nor after the process
//! was asked to stop.
//! **Limits** `EARLY_END_MAX` for cores of a start that came to nothing.
//! **Not here** what a core does (`gantry_actors::data`).

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use gantry_actors::data::router::CoreWord;
use gantry_actors::data::seat::{CoreSeat, RunningCore};
use gantry_actors::memory_plan::MemoryPlan;
use gantry_actors::seam::{ToControl, ToData};
use gantry_actors::settings::BrokerSettings;
use gantry_runtime::budget::shared::SharedBudget;
use gantry_runtime::mailbox::{MAILBOX_MESSAGES_MAX, MailReceiver, MailSender, mailbox};
use gantry_runtime::mesh::MeshSeat;
use gantry_runtime::net::Claim;
use gantry_runtime::shard::{CoreContext, CorePlan, DataCores};
use gantry_runtime::shutdown::Shutdown;
use gantry_runtime::topology::Placement;
use gantry_storage::identity::StoreIdentity;
use gantry_storage::shard_store::RecoveryReport;
use gantry_storage::units::ShardId;

use super::starting::{LOOK_EVERY, NotStarted, await_word, look};

/// What was found in the shards.
pub type Reports = Vec<(ShardId, RecoveryReport)>;

/// How long cores may take to close what they have recovered, when the start came to nothing. One
/// that still recovers is ended with the process, as by a kill: the next start begins again.
const EARLY_END_MAX: Duration = Duration::from_secs(1);

/// What a core takes with it.
pub struct Seat {
    core: CoreSeat,
    settings: Arc<BrokerSettings>,
    identity: StoreIdentity,
    recovered: mpsc::Sender<Result<Reports, String>>,
    open: MailReceiver<Claim>,
    opened: mpsc::Sender<Result<(), String>>,
}

/// The main thread's side of a seat.
pub struct Reins {
    recovered: mpsc::Receiver<Result<Reports, String>>,
    open: MailSender<Claim>,
    opened: mpsc::Receiver<Result<(), String>>,
}

/// What a core of the data plane is joined to the others and the control plane by, and the control
/// plane's way to it.
pub fn core_seat(
    mesh: MeshSeat<CoreWord>,
    to_control: &MailSender<ToControl>,
    replies: &Arc<SharedBudget>,
) -> (CoreSeat, MailSender<ToData>) {
    let (to_core, from_control) = mailbox(MAILBOX_MESSAGES_MAX);
    let core = CoreSeat {
        mesh,
        to_control: to_control.clone(),
        from_control,
        replies: Arc::clone(replies),
    };
    (core, to_core)
}

/// A core's seat, and what it is held by.
pub fn seat(
    core: CoreSeat,
    settings: &Arc<BrokerSettings>,
    identity: StoreIdentity,
) -> (Seat, Reins) {
    let (recovered, when_recovered) = mpsc::channel();
    let (open, when_open) = mailbox(1);
    let (opened, when_opened) = mpsc::channel();
    let seat = Seat {
        core,
        settings: Arc::clone(settings),
        identity,
        recovered,
        open: when_open,
        opened,
    };
    let reins = Reins {
        recovered: when_recovered,
        open,
        opened: when_opened,
    };
    (seat, reins)
}

/// Starts the cores; returns when each listens.
///
/// # Errors
/// A core can't be made, recovered or opened; the process was asked to stop.
pub fn start(
    memory: MemoryPlan,
    placements: Vec<Placement>,
    (seats, reins): (Vec<Seat>, Vec<Reins>),
    stop: &Shutdown,
    process: &Shutdown,
) -> Result<(DataCores, Reports), NotStarted> {
    let mut plan = CorePlan::new(placements);
    plan.io_memory_bytes = memory.io_memory_bytes;
    let cores =
        DataCores::start(&plan, stop, seats, run_core).map_err(|error| error.to_string())?;
    let opened = recovered(&reins, stop, process).and_then(|reports| {
        look(process)?;
        open_ports(&reins, stop, process)?;
        Ok(reports)
    });
    match opened {
        Ok(reports) => Ok((cores, reports)),
        Err(why) => {
            stop.ask("the start failed");
            // Cores that have recovered wait for the word to listen.
            drop(reins);
            let begun = Instant::now();
            while !cores.is_finished() && begun.elapsed() < EARLY_END_MAX {
                std::thread::sleep(LOOK_EVERY);
            }
            Err(why)
        }
    }
}

/// A data core's life.
async fn run_core(context: CoreContext, seat: Seat) {
    let Seat {
        core,
        settings,
        identity,
        recovered,
        open,
        opened,
    } = seat;
    let (main, vip) = (settings.listen, settings.listen_vip);
    let shutdown = context.shutdown.clone();
    // The main thread may have given up; then the core ends by the shutdown it has been asked for.
    let core = match RunningCore::start(context, core, settings, identity).await {
        Ok((core, reports)) => {
            let _ = recovered.send(Ok(reports));
            core
        }
        Err(error) => {
            let _ = recovered.send(Err(error.to_string()));
            return;
        }
    };
    let mut claims = Vec::new();
    if open.recv_batch(&mut claims).await {
        for claim in claims {
            let listening = core.listen(main, vip, claim).map(drop);
            let _ = opened.send(listening.map_err(|error| error.to_string()));
        }
        shutdown.wait().await;
    }
    core.stop().await;
}

fn recovered(reins: &[Reins], stop: &Shutdown, process: &Shutdown) -> Result<Reports, NotStarted> {
    let mut all = Vec::new();
    for rein in reins {
        let ended = "a data core ended while it recovered its shards, see the log";
        all.extend(await_word(&rein.recovered, stop, process, ended)?);
    }
    for (shard, report) in &all {
        for damage in &report.damage {
            tracing::warn!(shard = shard.0, damage, "passed over while recovering");
        }
    }
    Ok(all)
}

/// Opens the ports core by core, so that only the first one looks for strangers there.
fn open_ports(reins: &[Reins], stop: &Shutdown, process: &Shutdown) -> Result<(), NotStarted> {
    for (number, rein) in reins.iter().enumerate() {
        let claim = if number == 0 {
            Claim::First
        } else {
            Claim::Joined
        };
        let ended = "a data core ended while it opened its ports, see the log";
        rein.open
            .try_send(claim)
            .map_err(|_| NotStarted::Failed(ended.into()))?;
        await_word(&rein.opened, stop, process, ended)?;
    }
    Ok(())
}
