//! `gantry broker`: wiring a broker.
//!
//! **Owns** the order in which a broker's parts start and stop, and the lines printed about both.
//! **Lives on** the main thread; the parts on the data cores and the control thread.
//! **Invariants** ports open only after every shard is recovered and every core has its catalog; the broker is
//! registered only after its ports are open. It stops in the opposite order: leave the name servers,
//! answer and flush on the cores, then store what they handed over.
//! **Limits** `CORES_STOP_LIMIT` and `CONTROL_STOP_LIMIT`.
//! **Not here** rules (`gantry_actors`), keys (`config`).

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use gantry_actors::control::{ControlPlane, LinkReport};
use gantry_actors::data::seat::{CoreSeat, RunningCore, read_identity};
use gantry_actors::settings::{BrokerSettings, FlushDiskType};
use gantry_runtime::glommio_disk::{StoreLock, TailPlace};
use gantry_runtime::mailbox::{MAILBOX_MESSAGES_MAX, MailReceiver, MailSender, mailbox};
use gantry_runtime::mesh;
use gantry_runtime::net::Claim;
use gantry_runtime::probe::{self, Status};
use gantry_runtime::shard::{CoreContext, CorePlan, DataCores};
use gantry_runtime::shutdown::{Shutdown, StopReport};
use gantry_storage::identity::StoreIdentity;
use gantry_storage::shard_store::RecoveryReport;
use gantry_storage::units::ShardId;

use crate::config::address::{self, HeldPort};
use crate::config::broker::{self as config, BrokerPlan};
use crate::config::file;
use crate::config::values::{Origin, Values};
use crate::namesrv::pass_failures_on;
use crate::{cli, print, signals};

/// Requests under way, the flush, the checkpoint and the last bytes to clients.
const CORES_STOP_LIMIT: Duration = Duration::from_secs(30);
/// Leaving the name servers and storing offsets.
const CONTROL_STOP_LIMIT: Duration = Duration::from_secs(10);
/// Folder of the key-value store, below the data folder.
const TABLES_FOLDER: &str = "tables";
/// Recovery longer than this is worth a line.
const SLOW_RECOVERY: Duration = Duration::from_secs(1);

/// The two ports of a broker, held until the cores listen.
pub struct HeldPorts {
    main: HeldPort,
    vip: HeldPort,
}

/// A running broker.
pub struct Running {
    /// Its settings, with the ports that were taken.
    pub settings: Arc<BrokerSettings>,
    /// How many data cores serve it.
    pub cores_count: usize,
    /// How many shards the store has.
    pub shards_count: u8,
    /// What each name server said to the registration.
    pub links: Vec<LinkReport>,
    /// Holds the data folder against a second process.
    _lock: StoreLock,
    stop: Shutdown,
    cores: DataCores,
    control: ControlPlane,
}

/// What each core takes with it.
struct Seat {
    core: CoreSeat,
    settings: Arc<BrokerSettings>,
    identity: StoreIdentity,
    news: Sender<News>,
    open: MailReceiver<Claim>,
}

/// What a core tells the main thread while it starts.
enum News {
    Recovered(Vec<(ShardId, RecoveryReport)>),
    Listening,
    Failed(String),
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
    if let Some(namesrv) = args.namesrv.clone() {
        values.give("namesrvAddr", &namesrv, Origin::Flag("--namesrv"));
    } else if let (Origin::Default, Ok(namesrv)) =
        (values.origin("namesrvAddr"), std::env::var("NAMESRV_ADDR"))
    {
        values.give("namesrvAddr", &namesrv, Origin::Env("NAMESRV_ADDR"));
    }
    if let Some(data) = &args.data {
        let data = data.display().to_string();
        values.give("storePathRootDir", &data, Origin::Flag("--data"));
    }
    if let Some(ip) = args.listen {
        values.give("bindAddress", &ip.to_string(), Origin::Flag("--listen"));
    }
    if let Some(port) = args.port {
        values.give("listenPort", &port.to_string(), Origin::Flag("--port"));
    }
    finish_values(&mut values, args.cores.as_deref(), &args.sets);
    let mut plan = plan(&mut values)?;
    if args.print_config {
        print!("{}", values.print());
        return Ok(());
    }
    let shutdown = Shutdown::new();
    signals::watch(&shutdown)?;
    let held = hold(&mut plan)?;
    let running = start(plan, &held, &shutdown)?;
    println!("gantry {} broker", env!("CARGO_PKG_VERSION"));
    running.describe();
    println!("ready: broker {}", running.settings.advertised);
    shutdown.wait_blocking();
    let mut report = StopReport::new();
    running.stop(&mut report);
    print::stopped(&shutdown, &report)
}

/// The options that `up` and `broker` share, strongest last.
pub fn finish_values(values: &mut Values, cores: Option<&str>, sets: &[(String, String)]) {
    if let Some(cores) = cores {
        values.give("cores", cores, Origin::Flag("--cores"));
    }
    for (key, value) in sets {
        values.give(key, value, Origin::Set);
    }
}

/// Turns the values into a plan and prints its notices.
///
/// # Errors
/// Every complaint, a line each.
pub fn plan(values: &mut Values) -> Result<BrokerPlan, String> {
    let plan = config::plan(values, gantry_runtime::topology::memory_bytes())
        .map_err(|errors| errors.to_string())?;
    print::notices(&plan.notices);
    if let Some(notice) = config::apache_store_notice(&plan.settings.data_dir) {
        tracing::warn!("{notice}");
    }
    Ok(plan)
}

/// Holds both ports; ports 0 become free ones, in the plan as well.
///
/// # Errors
/// One line for the operator.
pub fn hold(plan: &mut BrokerPlan) -> Result<HeldPorts, String> {
    let settings = &mut plan.settings;
    let any = settings.listen.port() == 0;
    let refused = |what: &'static str, at: SocketAddr| {
        move |error: std::io::Error| print::port_refused(what, at, &error)
    };
    let main = address::hold(settings.listen).map_err(refused("broker", settings.listen))?;
    if any {
        settings.listen_vip.set_port(0);
    }
    let vip =
        address::hold(settings.listen_vip).map_err(refused("broker VIP", settings.listen_vip))?;
    settings.listen = main.address;
    settings.listen_vip = vip.address;
    settings.advertised.set_port(main.address.port());
    Ok(HeldPorts { main, vip })
}

/// Starts a broker; a failure of it is passed on to `process`.
///
/// # Errors
/// One line for the operator.
pub fn start(plan: BrokerPlan, held: &HeldPorts, process: &Shutdown) -> Result<Running, String> {
    let settings = Arc::new(plan.settings);
    let folder = &settings.data_dir;
    let lock = StoreLock::take(folder).map_err(|error| error.to_string())?;
    check_machine(plan.placements.len(), folder)?;
    let identity = read_identity(folder, settings.shard_count).map_err(|e| e.to_string())?;
    let stop = Shutdown::new();
    pass_failures_on(&stop, process);
    let cores_count = plan.placements.len();
    let (to_control, at_control) = mailbox(MAILBOX_MESSAGES_MAX);
    let (to_cores, at_cores): (Vec<_>, Vec<_>) = (0..cores_count)
        .map(|_| mailbox(MAILBOX_MESSAGES_MAX))
        .unzip();
    let tables = folder.join(TABLES_FOLDER);
    let control = ControlPlane::start(Arc::clone(&settings), &tables, at_control, to_cores, &stop)
        .map_err(|error| error.to_string())?;
    let (news, at_main) = channel();
    let (open, opened): (Vec<_>, Vec<_>) = (0..cores_count).map(|_| mailbox(1)).unzip();
    let seats = mesh::seats(cores_count)
        .into_iter()
        .zip(at_cores)
        .zip(opened)
        .map(|((mesh, from_control), open)| Seat {
            core: CoreSeat {
                mesh,
                to_control: to_control.clone(),
                from_control,
            },
            settings: Arc::clone(&settings),
            identity,
            news: news.clone(),
            open,
        })
        .collect();
    drop(news);
    let mut core_plan = CorePlan::new(plan.placements);
    core_plan.name = "data".into();
    let cores = DataCores::start(&core_plan, &stop, seats, serve).map_err(|e| e.to_string())?;
    let started = follow_start(&at_main, &open, cores_count);
    if let Err(why) = started {
        stop.fail(&why);
        return Err(why);
    }
    debug_assert_eq!(held.main.address, settings.listen);
    debug_assert_eq!(held.vip.address, settings.listen_vip);
    let links = control.register();
    Ok(Running {
        settings,
        cores_count,
        shards_count: identity.shards_count,
        links,
        _lock: lock,
        stop,
        cores,
        control,
    })
}

/// Refuses a machine on which the cores could not run, before anything is started.
fn check_machine(cores: usize, folder: &Path) -> Result<(), String> {
    let report = probe::Report::take(cores, folder);
    let failed = report
        .findings
        .iter()
        .find(|finding| finding.status == Status::Fail);
    failed.map_or(Ok(()), |finding| {
        let remedy = finding.remedy.as_deref().unwrap_or("see gantry doctor");
        Err(format!("{}: {}: {remedy}", finding.name, finding.found))
    })
}

/// Waits for the cores' shards, then lets them listen, the first one first.
fn follow_start(
    news: &Receiver<News>,
    open: &[MailSender<Claim>],
    cores: usize,
) -> Result<(), String> {
    let next = || {
        news.recv()
            .unwrap_or_else(|_| News::Failed("a core ended at its start".into()))
    };
    for _ in 0..cores {
        match next() {
            News::Recovered(reports) => reports.iter().for_each(|(id, r)| note_recovery(*id, r)),
            News::Failed(why) => return Err(why),
            News::Listening => return Err("a core listened before it was told to".into()),
        }
    }
    for (core, gate) in open.iter().enumerate() {
        let claim = if core == 0 {
            Claim::First
        } else {
            Claim::Joined
        };
        if gate.send_blocking(claim).is_err() {
            return Err(format!("core {core} ended at its start"));
        }
        if let News::Failed(why) = next() {
            return Err(why);
        }
    }
    Ok(())
}

fn note_recovery(shard: ShardId, report: &RecoveryReport) {
    let took = Duration::from_micros(report.elapsed_us);
    if took > SLOW_RECOVERY || !report.damage.is_empty() || report.runs_from_tail > 0 {
        tracing::info!(%shard, records = report.records, from_disk = report.runs_from_disk,
            from_tail = report.runs_from_tail, took_ms = took.as_millis(), "recovered");
    }
    for damage in &report.damage {
        tracing::error!(%shard, damage, "the log is damaged; what lies around it is served");
    }
}

/// The main future of a data core.
fn serve(context: CoreContext, seat: Seat) -> impl Future<Output = ()> {
    async move {
        let Seat {
            core,
            settings,
            identity,
            news,
            open,
        } = seat;
        let shutdown = context.shutdown.clone();
        let (main, vip) = (settings.listen, settings.listen_vip);
        let (core, reports) = match RunningCore::start(context, core, settings, identity).await {
            Ok(started) => started,
            Err(error) => return drop(news.send(News::Failed(error.to_string()))),
        };
        // The main thread waits for exactly these.
        let _ = news.send(News::Recovered(reports));
        let mut claims = Vec::new();
        if !open.recv_batch(&mut claims).await {
            return core.stop().await;
        }
        for claim in claims {
            let word = match core.listen(main, vip, claim) {
                Ok(_) => News::Listening,
                Err(error) => News::Failed(error.to_string()),
            };
            let _ = news.send(word);
        }
        shutdown.wait().await;
        core.stop().await;
    }
}

impl Running {
    /// Prints what was started, for the operator.
    pub fn describe(&self) {
        let settings = &self.settings;
        println!(
            "  broker        {} (VIP port {}), clients will get {}",
            settings.listen,
            settings.listen_vip.port(),
            settings.advertised
        );
        println!(
            "  name          {} in cluster {}",
            settings.broker_name, settings.cluster_name
        );
        println!("  data          {}", settings.data_dir.display());
        let tail = TailPlace::choose(settings.tail_dir.as_deref(), &settings.data_dir);
        println!(
            "  cores         {} data core(s), {} shard(s)",
            self.cores_count, self.shards_count
        );
        println!("  durability    {}", durability(settings, &tail));
        for link in &self.links {
            match &link.state {
                Ok(()) => println!("  registered    at {}", link.address),
                Err(why) => println!("  not registered at {}: {why}; still trying", link.address),
            }
        }
    }

    /// Stops it.
    pub fn stop(self, report: &mut StopReport) {
        let control = self.control;
        report.step("broker: leave name servers", CONTROL_STOP_LIMIT, || {
            control.unregister();
            Ok(())
        });
        self.stop.ask("the process stops");
        let cores = self.cores;
        report.step("broker: cores", CORES_STOP_LIMIT, || {
            match cores.join().into_iter().next() {
                None => Ok(()),
                Some((core, why)) => Err(format!("core {core}: {why}")),
            }
        });
        report.step("broker: control plane", CONTROL_STOP_LIMIT, || {
            control.finish(CONTROL_STOP_LIMIT)
        });
    }
}

fn durability(settings: &BrokerSettings, tail: &TailPlace) -> String {
    match settings.flush_disk_type {
        FlushDiskType::Sync => {
            "SYNC_FLUSH: an answered message is synced to the device, it survives a power cut"
                .into()
        }
        FlushDiskType::Async => format!(
            "ASYNC_FLUSH: an answered message survives kill -9 (tail in {}), is written within 10 ms \
             and synced within {} ms",
            tail.folder.display(),
            settings.flush_interval_ms
        ),
    }
}

/// How long a start took, for the operator.
pub fn took(since: Instant) -> String {
    format!("{} ms", since.elapsed().as_millis())
}
