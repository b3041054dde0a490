//! The command line.
//!
//! **Owns** names, options and help of every command.
//! **Lives on** the main thread.
//! **Invariants** options only name keys; their meaning is the key table's.
//! **Limits** none of its own.
//! **Not here** what the commands do (one file each).

pub mod admin;
pub mod supervised;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use self::admin::{
    AdminBroker, AdminCluster, AdminConnection, AdminGroup, AdminMessage, AdminOffset, AdminStats,
    AdminTopic, At,
};
use self::supervised::{AdminDelay, AdminDlq, AdminTx};

/// With the commit and the way it was built, if that wasn't plain (`deploy/build`).
pub const VERSION: &str = match option_env!("GANTRY_BUILD") {
    Some(_) => concat!(
        env!("CARGO_PKG_VERSION"),
        " (",
        env!("GANTRY_COMMIT"),
        ", trained)"
    ),
    None => concat!(env!("CARGO_PKG_VERSION"), " (", env!("GANTRY_COMMIT"), ")"),
};

/// A message broker and name server that speaks Apache RocketMQ's protocol.
#[derive(Debug, Parser)]
#[command(name = "gantry", version = VERSION, propagate_version = true)]
pub struct Cli {
    /// What is logged to stderr: error, warn, info, debug, trace, or a tracing filter.
    #[arg(long, global = true, env = "GANTRY_LOG", default_value = "info")]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a name server and a broker in one process, with the data in one folder.
    Up(Up),
    /// Start a name server.
    Namesrv(Namesrv),
    /// Start a broker from a RocketMQ broker.conf.
    Broker(Broker),
    /// Send messages.
    Send(Send),
    /// Receive messages.
    Receive(Receive),
    /// Take topics, groups and positions of an existing RocketMQ over into a running broker.
    Import(Import),
    /// Look after clusters, brokers, topics, groups and messages, or a data folder.
    #[command(subcommand)]
    Admin(Admin),
    /// Show where the time of a running broker's requests goes.
    Profile(Profile),
    /// Say what this machine offers and what to do about the rest.
    Doctor(Doctor),
    /// Measure; see `gantry bench --help`.
    #[command(disable_help_flag = true)]
    Bench(Bench),
    /// Print the version.
    Version,
}

/// Options of `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Folder for everything that is kept.
    #[arg(long, value_name = "DIR", default_value = "./gantry-data")]
    pub data: PathBuf,
    /// Address to listen on; a single address is also the one clients are told.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub listen: IpAddr,
    /// The broker's port; its VIP port is 2 below. 0 takes free ones.
    #[arg(long, value_name = "N", default_value_t = 10911)]
    pub port: u16,
    /// The name server's port. 0 takes a free one.
    #[arg(long, value_name = "N", default_value_t = 9876)]
    pub namesrv_port: u16,
    /// Cores that serve data: a count like 2, or a list like 0,2,4-7.
    #[arg(long, value_name = "LIST|COUNT")]
    pub cores: Option<String>,
    /// Any broker.conf key.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub sets: Vec<(String, String)>,
    /// Print the effective configuration and end.
    #[arg(long, short = 'p')]
    pub print_config: bool,
}

/// Options of `namesrv`.
#[derive(Debug, Args)]
pub struct Namesrv {
    /// A namesrv.conf.
    #[arg(long, short = 'c', value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on (key bindAddress).
    #[arg(long, value_name = "IP")]
    pub listen: Option<IpAddr>,
    /// Port to listen on (key listenPort).
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Any namesrv.conf key.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub sets: Vec<(String, String)>,
    /// Print the effective configuration and end.
    #[arg(long, short = 'p')]
    pub print_config: bool,
}

/// Options of `broker`.
#[derive(Debug, Args)]
pub struct Broker {
    /// A broker.conf.
    #[arg(long, short = 'c', value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name servers, `;` between them; stronger than the file's namesrvAddr, which is stronger than
    /// the environment's `NAMESRV_ADDR`.
    #[arg(long, short = 'n', value_name = "HOST:PORT;...")]
    pub namesrv: Option<String>,
    /// Folder for everything that is kept (key storePathRootDir).
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address to listen on (key bindAddress).
    #[arg(long, value_name = "IP")]
    pub listen: Option<IpAddr>,
    /// Port to listen on (key listenPort).
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Cores that serve data: a count like 2, or a list like 0,2,4-7.
    #[arg(long, value_name = "LIST|COUNT")]
    pub cores: Option<String>,
    /// Any broker.conf key.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub sets: Vec<(String, String)>,
    /// Print the effective configuration and end.
    #[arg(long, short = 'p')]
    pub print_config: bool,
}

/// Where a client command finds its brokers.
#[derive(Debug, Clone, Args)]
pub struct Where {
    /// Name servers, `;` between them.
    #[arg(
        long,
        short = 'n',
        env = "NAMESRV_ADDR",
        value_name = "HOST:PORT;...",
        default_value = "127.0.0.1:9876"
    )]
    pub namesrv: String,
}

/// Options of `send`.
#[derive(Debug, Args)]
pub struct Send {
    /// The topic.
    pub topic: String,
    /// The body; `-` or nothing reads standard input, one message per line.
    pub body: Option<String>,
    /// The tag.
    #[arg(long)]
    pub tag: Option<String>,
    /// A key to find it by; may be repeated.
    #[arg(long = "key")]
    pub keys: Vec<String>,
    /// A property; may be repeated.
    #[arg(long = "property", value_name = "K=V", value_parser = key_value)]
    pub properties: Vec<(String, String)>,
    /// Send it this often.
    #[arg(long, default_value_t = 1)]
    pub count: u64,
    /// Only to this queue.
    #[arg(long)]
    pub queue: Option<i32>,
    /// Where.
    #[command(flatten)]
    pub at: Where,
}

/// Options of `receive`.
#[derive(Debug, Args)]
pub struct Receive {
    /// The topic.
    pub topic: String,
    /// The consumer group; its position is kept by the broker.
    #[arg(long, short = 'g')]
    pub group: String,
    /// Where a group without a position starts: first, last, or a time as
    /// ms since 1970 or 2026-01-31T12:00:00 (UTC).
    #[arg(long, value_name = "first|last|TIME", default_value = "first")]
    pub from: String,
    /// Keep waiting for more, and for a broker that is away.
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
    /// Where.
    #[command(flatten)]
    pub at: Where,
}

/// The commands of `admin`.
#[derive(Debug, Subcommand)]
pub enum Admin {
    /// Topics.
    #[command(subcommand)]
    Topic(AdminTopic),
    /// Consumer groups.
    #[command(subcommand)]
    Group(AdminGroup),
    /// Where consumer groups are.
    #[command(subcommand)]
    Offset(AdminOffset),
    /// Brokers.
    #[command(subcommand)]
    Broker(AdminBroker),
    /// Clusters.
    #[command(subcommand)]
    Cluster(AdminCluster),
    /// Messages.
    #[command(subcommand)]
    Message(AdminMessage),
    /// Connected clients.
    #[command(subcommand)]
    Connection(AdminConnection),
    /// Counters.
    #[command(subcommand)]
    Stats(AdminStats),
    /// Dead letters.
    #[command(subcommand)]
    Dlq(AdminDlq),
    /// Delayed messages that are pending.
    #[command(subcommand)]
    Delay(AdminDelay),
    /// Transactions that are undecided.
    #[command(subcommand)]
    Tx(AdminTx),
    /// The parts of a broker that are restarted by themselves: state, restarts, backlog.
    Supervisors {
        /// Where.
        #[command(flatten)]
        at: At,
    },
    /// Look into the logs of a stopped broker, or mend them.
    #[command(subcommand)]
    Log(AdminLog),
}

/// The commands of `admin log`.
#[derive(Debug, Subcommand)]
pub enum AdminLog {
    /// Read every run and report what is damaged, with file and position; exit code 1 if any is.
    Verify(LogPlace),
    /// Print every record.
    Dump(LogDump),
    /// Give up what is damaged, so that the rest can be opened again.
    Repair(LogRepair),
}

/// Which logs.
#[derive(Debug, Args)]
pub struct LogPlace {
    /// The data folder of a stopped broker.
    #[arg(long, value_name = "DIR", default_value = "./gantry-data")]
    pub data: PathBuf,
    /// Only this shard.
    #[arg(long, value_name = "N")]
    pub shard: Option<u8>,
}

/// Options of `admin log dump`.
#[derive(Debug, Args)]
pub struct LogDump {
    /// Where.
    #[command(flatten)]
    pub place: LogPlace,
    /// Only records of this topic.
    #[arg(long)]
    pub topic: Option<String>,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

/// Options of `admin log repair`.
#[derive(Debug, Args)]
pub struct LogRepair {
    /// Where.
    #[command(flatten)]
    pub place: LogPlace,
    /// Only say what would be dropped.
    #[arg(long)]
    pub dry_run: bool,
    /// Go on although a killed broker left a tail, from which a start may mend the log by itself.
    #[arg(long)]
    pub without_tail: bool,
}

/// Options of `profile`.
#[derive(Debug, Args)]
pub struct Profile {
    /// The broker's address; port 10911 if none is given.
    #[arg(value_name = "HOST[:PORT]", default_value = "127.0.0.1:10911")]
    pub broker: String,
    /// Show it again every two seconds, until interrupted.
    #[arg(long, short = 'w')]
    pub watch: bool,
    /// The broker's own answer: one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Options of `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The folder `config` of the store (storePathRootDir); of a stopped broker, else it may be a
    /// few seconds old.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Replace what the broker has otherwise.
    #[arg(long)]
    pub overwrite: bool,
    /// Change nothing; only report.
    #[arg(long)]
    pub dry_run: bool,
    /// Into which broker.
    #[command(flatten)]
    pub at: At,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The folder that a broker would use.
    #[arg(long, value_name = "DIR", default_value = "./gantry-data")]
    pub data: PathBuf,
}

/// `bench` has its own command line.
#[derive(Debug, Args)]
pub struct Bench {
    /// Passed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err("write it as key=value".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_as_the_readme_shows_it() {
        let cli = parse(
            "gantry up --data /d --listen 127.0.0.1 --port 0 --namesrv-port 0 --cores 1 \
                         --set flushDiskType=SYNC_FLUSH --set a=b=c",
        )
        .unwrap();
        let Command::Up(up) = cli.command else {
            panic!("not up")
        };
        assert_eq!(up.sets[1], ("a".into(), "b=c".into()));
        assert_eq!(up.cores.as_deref(), Some("1"));
        assert!(parse("gantry up --set nokey").is_err());
    }

    #[test]
    fn broker_takes_rocketmqs_own_options() {
        let cli = parse("gantry broker -c broker.conf -n a:1;b:2 -p").unwrap();
        let Command::Broker(broker) = cli.command else {
            panic!("not broker")
        };
        assert_eq!(broker.namesrv.as_deref(), Some("a:1;b:2"));
        assert!(broker.print_config);
    }

    #[test]
    fn send_and_receive() {
        let cli = parse("gantry send T hello --tag a --key k1 --key k2 --property x=1 --count 3")
            .unwrap();
        let Command::Send(send) = cli.command else {
            panic!("not send")
        };
        assert_eq!((send.keys.len(), send.count), (2, 3));
        assert!(parse("gantry receive T").is_err(), "a group is needed");
        let cli = parse("gantry receive T --group g --from last --follow --json").unwrap();
        assert!(matches!(
            cli.command,
            Command::Receive(Receive {
                follow: true,
                json: true,
                ..
            })
        ));
    }

    #[test]
    fn admin_log_has_its_three_commands() {
        let cli = parse("gantry admin log repair --data /d --shard 3 --dry-run").unwrap();
        let Command::Admin(Admin::Log(AdminLog::Repair(repair))) = cli.command else {
            panic!("not repair")
        };
        assert!(repair.dry_run && !repair.without_tail);
        assert_eq!(repair.place.shard, Some(3));
        assert!(parse("gantry admin log dump --json --topic T").is_ok());
        assert!(parse("gantry admin log verify").is_ok());
        assert!(parse("gantry admin log").is_err());
    }

    #[test]
    fn bench_passes_everything_on() {
        let cli = parse("gantry bench produce --size 1024 --help").unwrap();
        let Command::Bench(bench) = cli.command else {
            panic!("not bench")
        };
        assert_eq!(bench.args, ["produce", "--size", "1024", "--help"]);
    }
}
