//! `gantry broker`: wiring a broker.
//!
//! **Owns** the order in which a broker's parts start and stop.
//! **Lives on** the main thread.
//! **Invariants** starting: store locked, machine fit, tables and catalog read, shards recovered,
//! ports open, registered, in this order; so a client that finds the broker can use it. Stopping is
//! the
//! reverse, and every step is timed.
//! **Limits** `STOP_LIMIT` for the parts to hand over what they hold.
//! **Not here** what the parts do (`gantry_actors`).

mod cores;
pub mod starting;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_actors::control::{ControlPlane, LinkReport, Loaded};
use gantry_actors::data::seat::read_identity;
use gantry_actors::seam::ToControl;
use gantry_actors::settings::BrokerSettings;
use gantry_runtime::budget::shared::SharedBudget;
use gantry_runtime::glommio_disk::{StoreLock, give_memory_back};
use gantry_runtime::mailbox::{MAILBOX_MESSAGES_MAX, MailSender, mailbox};
use gantry_runtime::mesh;
use gantry_runtime::probe::{self, Report, Status};
use gantry_runtime::shard::DataCores;
use gantry_runtime::shutdown::{Shutdown, StopReport};
use gantry_runtime::topology;
use gantry_storage::identity::StoreIdentity;
use gantry_storage::shard_store::RecoveryReport;
use gantry_storage::units::ShardId;

use crate::config::address::{self, HeldPort};
use crate::config::broker::{self as config, BrokerPlan};
use crate::config::{Origin, Values, file};
use crate::namesrv::pass_failures_on;
use crate::{cli, doctor, print, signals};
use starting::NotStarted;

/// How long the parts may take to hand over what they hold.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// The tables of the control plane, in the data folder.
const TABLES_FOLDER: &str = "tables";

/// The ports of a broker, held until its cores listen.
pub struct Ports {
    main: HeldPort,
    vip: HeldPort,
}

/// A running broker.
pub struct Running {
    /// The settings, with the real ports.
    pub settings: Arc<BrokerSettings>,
    /// What the machine offers.
    pub machine: Report,
    /// What was recovered.
    pub recovered: Recovered,
    /// How registration went.
    pub links: Vec<LinkReport>,
    stop: Shutdown,
    control: ControlPlane,
    cores: DataCores,
    core_count: usize,
    _lock: StoreLock,
}

/// What a start found in the data folder.
pub struct Recovered {
    /// Whether the store was made by this start.
    pub is_new: bool,
    /// Shards of the store.
    pub shards_count: u8,
    /// Records put back into the indexes.
    pub records: u64,
    /// Runs that only the tail had: what a killed process left behind.
    pub runs_from_tail: u64,
    /// The slowest shard's time.
    pub longest_us: u64,
    /// Topics, groups and positions.
    pub loaded: Loaded,
}

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub fn run(args: &cli::Broker) -> Result<(), String> {
    let mut values = config::values();
    if let Some(path) = &args.config {
        file::read(path, &mut values);
    }
    let file_lines = values.lines();
    give_options(&mut values, args);
    let plan = config::plan_with_kept(&mut values, file_lines, topology::memory_bytes());
    let plan = plan.map_err(|errors| errors.to_string())?;
    print::notices(&plan.notices);
    if args.print_config {
        return print::answer(&values.print()).map(drop);
    }
    let shutdown = Shutdown::new();
    signals::watch(&shutdown)?;
    match serve(plan, &shutdown) {
        Ok(report) => print::stopped(&shutdown, &report),
        Err(why) => why.end(),
    }
}

fn serve(plan: BrokerPlan, shutdown: &Shutdown) -> Result<StopReport, NotStarted> {
    let ports = hold(&plan.settings, shutdown)?;
    let running = start(plan, ports, shutdown)?;
    say!("Gantry broker {} is up", crate::cli::VERSION);
    print::broker(&running);
    say!("ready: broker {}", running.settings.advertised);
    shutdown.wait_blocking();
    let mut report = StopReport::new();
    running.stop(&mut report);
    Ok(report)
}

fn give_options(values: &mut Values, args: &cli::Broker) {
    if let Ok(list) = std::env::var("NAMESRV_ADDR") {
        values.give("namesrvAddr", &list, Origin::Env("NAMESRV_ADDR"));
    }
    let options = [
        ("namesrvAddr", "--namesrv", args.namesrv.clone()),
        (
            "storePathRootDir",
            "--data",
            args.data.as_ref().map(|p| p.display().to_string()),
        ),
        (
            "bindAddress",
            "--listen",
            args.listen.map(|ip| ip.to_string()),
        ),
        (
            "listenPort",
            "--port",
            args.port.map(|port| port.to_string()),
        ),
        ("cores", "--cores", args.cores.clone()),
    ];
    for (key, name, value) in options {
        if let Some(value) = value {
            values.give(key, &value, Origin::Flag(name));
        }
    }
    for (key, value) in &args.sets {
        values.give(key, value, Origin::Set);
    }
}

/// Holds a broker's ports, before anything is written to disk.
///
/// # Errors
/// One line for the operator; `process` was asked to stop first.
pub fn hold(settings: &BrokerSettings, process: &Shutdown) -> Result<Ports, NotStarted> {
    let held = |what, at: SocketAddr| {
        let held = address::hold(at, process);
        let held = held.map_err(|error| print::port_refused(what, at, &error))?;
        held.ok_or(NotStarted::Asked)
    };
    Ok(Ports {
        main: held("broker", settings.listen)?,
        vip: held("broker's VIP", settings.listen_vip)?,
    })
}

/// Starts a broker; a failure of it is passed on to `process`.
///
/// # Errors
/// One line for the operator; `process` was asked to stop before the ports were open.
pub fn start(plan: BrokerPlan, ports: Ports, process: &Shutdown) -> Result<Running, NotStarted> {
    let replies = replies(&plan);
    start_with(plan, ports, &replies, process)
}

/// The memory of all replies of a broker that wait.
pub fn replies(plan: &BrokerPlan) -> Arc<SharedBudget> {
    let cores = u16::try_from(plan.placements.len()).unwrap_or(u16::MAX);
    SharedBudget::new(plan.settings.memory_plan(cores).replies_bytes)
}

/// As [`start`], with memory for replies that others draw from as well.
///
/// # Errors
/// As [`start`].
pub fn start_with(
    plan: BrokerPlan,
    ports: Ports,
    replies: &Arc<SharedBudget>,
    process: &Shutdown,
) -> Result<Running, NotStarted> {
    let BrokerPlan {
        mut settings,
        placements,
        is_memory_given,
        ..
    } = plan;
    settings.listen = ports.main.address;
    settings.listen_vip = ports.vip.address;
    settings.advertised.set_port(ports.main.address.port());
    let machine = fit_machine(&settings, placements.len())?;
    let (mut settings, lock) = open_folder(settings)?;
    let identity = identity(&settings)?;
    let fitted = Arc::make_mut(&mut settings);
    fitted.shard_count = identity.shards_count;
    fit_memory(fitted, placements.len(), is_memory_given)?;
    let stop = Shutdown::new();
    pass_failures_on(&stop, process);
    let (to_control, at_control) = mailbox(MAILBOX_MESSAGES_MAX);
    let (mut to_data, mut seats, mut reins) = (Vec::new(), Vec::new(), Vec::new());
    let core_count = placements.len();
    let memory = settings.memory_plan(u16::try_from(core_count).unwrap_or(u16::MAX));
    for mesh in mesh::seats(core_count, memory.road_bytes) {
        let (core, to_core) = cores::core_seat(mesh, &to_control, replies);
        to_data.push(to_core);
        let (seat, rein) = cores::seat(core, &settings, identity);
        seats.push(seat);
        reins.push(rein);
    }
    drop::<MailSender<ToControl>>(to_control);
    let tables = settings.data_dir.join(TABLES_FOLDER);
    let control = ControlPlane::start(Arc::clone(&settings), &tables, at_control, to_data, &stop)
        .map_err(|error| error.to_string())?;
    let started = cores::start(memory, placements, (seats, reins), &stop, process);
    drop(ports);
    let (cores, reports) = match started {
        Ok(started) => started,
        Err(why) => {
            stop.ask("the start failed");
            // The reason of the failed start is what matters; it is reported below.
            let _ = control.finish(Duration::from_secs(1));
            return Err(why);
        }
    };
    // Asked to stop just now: clients had better not hear of it.
    let links = if process.is_triggered() {
        Vec::new()
    } else {
        control.register()
    };
    // Many small things were read and parsed, on all threads.
    give_memory_back();
    Ok(Running {
        recovered: sum_up(&reports, identity, control.loaded()),
        settings,
        machine,
        links,
        stop,
        control,
        cores,
        core_count,
        _lock: lock,
    })
}

/// The store may have more shards than this start would make, and needs more memory then.
fn fit_memory(settings: &mut BrokerSettings, cores: usize, is_given: bool) -> Result<(), String> {
    let limit_mib = settings.memory_limit_bytes >> 20;
    let fits = config::fit_memory(settings, cores, is_given);
    fits.map_err(|why| format!("memoryLimit={limit_mib}M: {why}"))
}

/// Whose store it is, or a new store's name.
fn identity(settings: &BrokerSettings) -> Result<StoreIdentity, String> {
    let identity = read_identity(&settings.data_dir, settings.shard_count)
        .map_err(|error| format!("data folder {}: {error}", settings.data_dir.display()))?;
    if identity.shards_count != settings.shard_count {
        tracing::info!(
            store = identity.shards_count,
            wanted = settings.shard_count,
            "a store keeps the shards it was made with; they are dealt out to the cores"
        );
    }
    Ok(identity)
}

/// Probes the machine; whatever would make an executor panic with a misleading text is an error
/// here.
fn fit_machine(settings: &BrokerSettings, cores: usize) -> Result<Report, String> {
    probe::require_ring().map_err(|error| error.to_string())?;
    let report = Report::take(cores, &doctor::existing_part(&settings.data_dir));
    match report
        .findings
        .iter()
        .find(|finding| finding.status == Status::Fail)
    {
        None => Ok(report),
        Some(finding) => Err(format!(
            "{}: {}: {}",
            finding.name,
            finding.found,
            finding
                .remedy
                .as_deref()
                .unwrap_or("gantry doctor says more")
        )),
    }
}

/// Locks the data folder and makes its path absolute.
fn open_folder(mut settings: BrokerSettings) -> Result<(Arc<BrokerSettings>, StoreLock), String> {
    let given: PathBuf = settings.data_dir.clone();
    let refused = |why: String| format!("data folder {}: {why}", given.display());
    if let Some(notice) = config::apache_store_notice(&given) {
        tracing::warn!("{notice}");
    }
    let lock = StoreLock::take(&given).map_err(|error| {
        refused(format!(
            "{error}; use a folder that this user may write (--data DIR)"
        ))
    })?;
    settings.data_dir = given
        .canonicalize()
        .map_err(|error| refused(error.to_string()))?;
    Ok((Arc::new(settings), lock))
}

fn sum_up(
    reports: &[(ShardId, RecoveryReport)],
    identity: StoreIdentity,
    loaded: Loaded,
) -> Recovered {
    let all = || reports.iter().map(|(_, report)| report);
    Recovered {
        is_new: all().all(|report| report.created),
        shards_count: identity.shards_count,
        records: all().map(|report| report.records).sum(),
        runs_from_tail: all().map(|report| report.runs_from_tail).sum(),
        longest_us: all().map(|report| report.elapsed_us).max().unwrap_or(0),
        loaded,
    }
}

impl Running {
    /// How many data cores serve.
    pub fn core_count(&self) -> usize {
        self.core_count
    }

    /// Stops it in order.
    pub fn stop(self, report: &mut StopReport) {
        let Self {
            stop,
            control,
            cores,
            ..
        } = self;
        report.step("leave the name servers", STOP_LIMIT, || {
            control.unregister();
            Ok(())
        });
        stop.ask("the process stops");
        // The cores hand their offsets to the control plane, which therefore outlives them.
        report.step(
            "data cores: finish, sync, close",
            STOP_LIMIT,
            || match cores.join().into_iter().next() {
                None => Ok(()),
                Some((core, why)) => Err(format!("core {core}: {why}")),
            },
        );
        report.step("control plane: store, close", STOP_LIMIT, || {
            control.finish(STOP_LIMIT)
        });
    }
}
