//! `gantry namesrv`: wiring a name server.
//!
//! **Owns** the start, stop and report of the name server's parts.
//! **Lives on** the main thread; the parts on an executor and a control thread of their own.
//! **Invariants** when `start` returns, the port is open; `stop` closes connections before the
//! actor.
//! **Limits** `STOP_LIMIT` for connections to take their last replies; [`REPLIES_BYTES_MAX`] of
//! replies that wait, [`OUT_BYTES_MAX`] of them for one connection.
//! **Not here** routes and answers (`gantry_actors::namesrv`).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gantry_actors::namesrv::desk::Desk;
use gantry_actors::namesrv::kv::KeyValues;
use gantry_actors::namesrv::port::{self, Port};
use gantry_actors::namesrv::settings::NamesrvSettings;
use gantry_actors::namesrv::shell::{self, FromNamesrv, ToNamesrv};
use gantry_protocol::frame::FRAME_BYTES_MAX;
use gantry_runtime::budget::shared::SharedBudget;
use gantry_runtime::clock::MonoMs;
use gantry_runtime::control::ControlPlane;
use gantry_runtime::mailbox::{MAILBOX_MESSAGES_MAX, MailReceiver, MailSender, mailbox};
use gantry_runtime::net::{Claim, Net, NetOptions, PeerTable};
use gantry_runtime::probe;
use gantry_runtime::shard::{CoreContext, CorePlan, DataCores};
use gantry_runtime::shutdown::{Shutdown, StopReason, StopReport};
use gantry_runtime::topology::unbound;

use crate::broker::starting::{NotStarted, await_word};
use crate::cli;
use crate::config::address::{self, HeldPort};
use crate::config::namesrv::{self as config, NamesrvPlan};
use crate::config::{Origin, file};
use crate::{print, signals};

/// How long connections may take their last replies.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Replies that wait to be read, of a name server by itself; in `gantry up` they share the
/// broker's part of `memoryLimit`.
const REPLIES_BYTES_MAX: usize = 256 << 20;
/// Of one connection, above which it is closed: two of the largest, a list of all topics.
const OUT_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX as usize;
const _: () = assert!(4 * OUT_BYTES_MAX <= REPLIES_BYTES_MAX);

/// A running name server.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Shutdown,
    cores: DataCores,
    control: ControlPlane,
}

/// What the executor takes with it.
struct Seat {
    settings: NamesrvSettings,
    listen: SocketAddr,
    to_actor: MailSender<ToNamesrv>,
    from_actor: MailReceiver<FromNamesrv>,
    replies: Arc<SharedBudget>,
    opened: std::sync::mpsc::Sender<Result<SocketAddr, String>>,
}

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub fn run(args: &cli::Namesrv) -> Result<(), String> {
    let mut values = config::values();
    if let Some(path) = &args.config {
        file::read(path, &mut values);
        // Changes by code 318 go into the file that was given, as in RocketMQ.
        let path = path.display().to_string();
        values.give("configStorePath", &path, Origin::Flag("--config"));
    }
    if let Some(ip) = args.listen {
        values.give("bindAddress", &ip.to_string(), Origin::Flag("--listen"));
    }
    if let Some(port) = args.port {
        values.give("listenPort", &port.to_string(), Origin::Flag("--port"));
    }
    for (key, value) in &args.sets {
        values.give(key, value, Origin::Set);
    }
    if args.config.is_none() {
        config::give_kept(&mut values);
    }
    let NamesrvPlan { settings, notices } =
        config::plan(&mut values).map_err(|errors| errors.to_string())?;
    print::notices(&notices);
    if args.print_config {
        return print::answer(&values.print()).map(drop);
    }
    let shutdown = Shutdown::new();
    signals::watch(&shutdown)?;
    match run_until_asked(settings, &shutdown) {
        Ok(report) => print::stopped(&shutdown, &report),
        Err(why) => why.end(),
    }
}

fn run_until_asked(
    settings: NamesrvSettings,
    shutdown: &Shutdown,
) -> Result<StopReport, NotStarted> {
    let held = hold(settings.listen, shutdown)?;
    let replies = SharedBudget::new(REPLIES_BYTES_MAX);
    let running = start(settings, &held, replies, shutdown)?;
    say!("gantry name server listening on {}", running.address);
    say!("ready: namesrv {}", running.address);
    shutdown.wait_blocking();
    let mut report = StopReport::new();
    running.stop(&mut report);
    Ok(report)
}

/// Holds the name server's port.
///
/// # Errors
/// One line for the operator; `process` was asked to stop first.
pub fn hold(listen: SocketAddr, process: &Shutdown) -> Result<HeldPort, NotStarted> {
    let held = address::hold(listen, process);
    let held = held.map_err(|error| print::port_refused("name server", listen, &error))?;
    held.ok_or(NotStarted::Asked)
}

/// Starts a name server; a failure of it is passed on to `process`. `replies`: the memory of all
/// replies that wait.
///
/// # Errors
/// One line for the operator; `process` was asked to stop before the port was open.
pub fn start(
    settings: NamesrvSettings,
    held: &HeldPort,
    replies: Arc<SharedBudget>,
    process: &Shutdown,
) -> Result<Running, NotStarted> {
    let path = &settings.kv_config_path;
    let values = KeyValues::load(path)
        .map_err(|error| format!("kvConfigPath {}: cannot be read: {error}", path.display()))?;
    let stop = Shutdown::new();
    pass_failures_on(&stop, process);
    let (to_actor, at_actor) = mailbox(MAILBOX_MESSAGES_MAX);
    let (to_port, at_port) = mailbox(MAILBOX_MESSAGES_MAX);
    let desk_settings = settings.clone();
    let out = (to_port, Arc::clone(&replies));
    let control = ControlPlane::start(&stop, move |stop| async move {
        let desk = Desk::new(desk_settings, values, MonoMs::now());
        shell::serve(desk, at_actor, out, stop).await;
    })
    .map_err(|error| error.to_string())?;
    let (opened, when_open) = std::sync::mpsc::channel();
    let seat = Seat {
        settings,
        listen: held.address,
        to_actor,
        from_actor: at_port,
        replies,
        opened,
    };
    // Each connection is an open file.
    let files = probe::open_files();
    tracing::debug!(
        open_files = files.found,
        "the limit is raised as far as it goes"
    );
    let mut plan = CorePlan::new(unbound(1));
    plan.name = "namesrv".into();
    let cores =
        DataCores::start(&plan, &stop, vec![seat], serve).map_err(|error| error.to_string())?;
    let ended = "the name server's executor ended before its port was open";
    let address = await_word(&when_open, &stop, process, ended)?;
    Ok(Running {
        address,
        stop,
        cores,
        control,
    })
}

async fn serve(core: CoreContext, seat: Seat) {
    let port = Port::new(core.clone(), seat.to_actor);
    let peers = PeerTable::new(core.index);
    let options = NetOptions {
        idle_ms: seat.settings.channel_idle_max_seconds.saturating_mul(1_000),
        out_bytes_max: OUT_BYTES_MAX,
        replies: seat.replies,
        ..NetOptions::default()
    };
    let net = Net::new(&core, options, port, Rc::clone(&peers));
    let opened = net
        .listen(seat.listen, Claim::First)
        .map_err(|error| error.to_string());
    let failed = opened.is_err();
    // The receiver waits for exactly this.
    let _ = seat.opened.send(opened);
    if failed {
        return;
    }
    core.spawn_serve(port::deliver(seat.from_actor, peers));
    core.shutdown.wait().await;
    net.close(STOP_LIMIT).await;
}

impl Running {
    /// Stops it.
    pub fn stop(self, report: &mut StopReport) {
        self.stop.ask("the process stops");
        report.step("name server: connections", STOP_LIMIT * 2, || {
            match self.cores.join().into_iter().next() {
                None => Ok(()),
                Some((_, why)) => Err(why),
            }
        });
        report.step("name server: actor", STOP_LIMIT, || self.control.stop());
    }
}

/// A part that fails beyond its budget ends the process.
pub fn pass_failures_on(part: &Shutdown, process: &Shutdown) {
    let (part, process) = (part.clone(), process.clone());
    // Without the thread a failure is still logged by the part itself.
    let _ = std::thread::Builder::new()
        .name("part-watch".into())
        .spawn(move || {
            part.wait_blocking();
            if let Some(reason) = part.reason().filter(StopReason::is_failure) {
                process.trigger(reason);
            }
        });
}

#[cfg(test)]
#[path = "namesrv_tests.rs"]
mod tests;
