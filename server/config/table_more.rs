//! Keys of RocketMQ that Gantry accepts without effect, or refuses.
//!
//! **Owns** why each of them does nothing, in words for the operator who set it.
//! **Lives on** the main thread.
//! **Invariants** a key that asks for a *promise* (security, replication, failover) is refused when
//! switched on, never ignored: a broker that silently runs without it would be a trap.
//! **Limits** none of its own.
//! **Not here** keys that work (`table`).

use super::table::Effect::{DefaultOnly, None as Nothing};
use super::table::{ANY, Key, NO_POOLS, key};
use super::value::Kind::{Bool, Bytes, Int, OneOf, Path, Text};

const DIRECT: &str =
    "the log is written by direct I/O in aligned runs; there is no page cache to tune";
const NO_SLAVES: &str = "replication is not built yet";
const NO_POP: &str = "pop consumption is not built yet";
const NO_AUTH: &str =
    "Gantry does not check signatures yet, and starting open instead would be unsafe";
const NO_FAILOVER: &str = "failover is not built yet";
const DELETION: &str =
    "segments are renamed or removed one by one by a task of low share; there is nothing to pace";
const COLD_PULLS: &str =
    "a pull is filled from the device as from memory, up to the limits InMemory";
const INDEX: &str = "indexes are derived from the log and sized by it";

/// Common keys without effect.
pub const COMMON: &[Key] = &[
    key("slaveReadEnable", "false", Bool, Nothing(NO_SLAVES)),
    key("slaveTimeout", "3000", ANY, Nothing(NO_SLAVES)),
    key("haMasterAddress", "", Text, Nothing(NO_SLAVES)),
    key("haSendHeartbeatInterval", "5000", ANY, Nothing(NO_SLAVES)),
    key("haHousekeepingInterval", "20000", ANY, Nothing(NO_SLAVES)),
    key("haTransferBatchSize", "32768", ANY, Nothing(NO_SLAVES)),
    key("haSlaveFallbehindMax", "268435456", ANY, Nothing(NO_SLAVES)),
    key("duplicationEnable", "false", Bool, Nothing(NO_SLAVES)),
    key(
        "brokerFastFailureEnable",
        "true",
        Bool,
        Nothing("flow control is always on: a full stage answers SYSTEM_BUSY at once"),
    ),
    key(
        "destroyMapedFileIntervalForcibly",
        "120000",
        ANY,
        Nothing(DELETION),
    ),
    key(
        "redeleteHangedFileInterval",
        "120000",
        ANY,
        Nothing(DELETION),
    ),
    key(
        "deleteCommitLogFilesInterval",
        "100",
        ANY,
        Nothing(DELETION),
    ),
    key(
        "deleteConsumeQueueFilesInterval",
        "100",
        ANY,
        Nothing(DELETION),
    ),
    key("mappedFileSizeConsumeQueue", "6000000", ANY, Nothing(INDEX)),
    key("maxIndexNum", "20000000", ANY, Nothing(INDEX)),
    key("maxHashSlotNum", "5000000", ANY, Nothing(INDEX)),
    key("messageIndexSafe", "false", Bool, Nothing(INDEX)),
    key("storePathConsumeQueue", "", Path, Nothing(INDEX)),
    key("storePathIndex", "", Path, Nothing(INDEX)),
    key(
        "storeCheckpoint",
        "",
        Path,
        Nothing("checkpoints lie beside the log they describe"),
    ),
    key(
        "abortFile",
        "",
        Path,
        Nothing("recovery reads the log itself; there is no abort mark"),
    ),
    key(
        "transientStorePoolEnable",
        "false",
        Bool,
        Nothing("the shared-memory tail does this always, and survives a kill"),
    ),
    key(
        "transientStorePoolSize",
        "5",
        ANY,
        Nothing("tailBytes sizes the tail"),
    ),
    key(
        "fastFailIfNoBufferInStorePool",
        "false",
        Bool,
        Nothing("a full tail always answers SYSTEM_BUSY"),
    ),
    key(
        "transferMsgByHeap",
        "true",
        Bool,
        Nothing("a pull copies stored bytes once, in either setting"),
    ),
    key("warmMapedFileEnable", "false", Bool, Nothing(DIRECT)),
    key("osPageCacheBusyTimeOutMills", "1000", ANY, Nothing(DIRECT)),
    key("flushCommitLogTimed", "true", Bool, Nothing(DIRECT)),
    key("flushCommitLogLeastPages", "4", ANY, Nothing(DIRECT)),
    key("commitCommitLogLeastPages", "4", ANY, Nothing(DIRECT)),
    key("commitIntervalCommitLog", "200", ANY, Nothing(DIRECT)),
    key(
        "flushCommitLogThoroughInterval",
        "10000",
        ANY,
        Nothing(DIRECT),
    ),
    key(
        "commitCommitLogThoroughInterval",
        "200",
        ANY,
        Nothing(DIRECT),
    ),
    key("flushIntervalConsumeQueue", "1000", ANY, Nothing(INDEX)),
    key("flushConsumeQueueLeastPages", "2", ANY, Nothing(INDEX)),
    key(
        "flushConsumeQueueThoroughInterval",
        "60000",
        ANY,
        Nothing(INDEX),
    ),
    key(
        "maxTransferBytesOnMessageInDisk",
        "65536",
        Bytes(1, 8 << 20),
        Nothing(COLD_PULLS),
    ),
    key(
        "maxTransferCountOnMessageInDisk",
        "8",
        Int(1, 4096),
        Nothing(COLD_PULLS),
    ),
    key(
        "accessMessageInMemoryMaxRatio",
        "40",
        Int(0, 100),
        Nothing("what is in memory is known exactly, not guessed from a ratio"),
    ),
    key(
        "checkCRCOnRecover",
        "true",
        Bool,
        Nothing("checksums are always checked"),
    ),
    key(
        "useReentrantLockWhenPutMessage",
        "true",
        Bool,
        Nothing("no lock is on the way of a message"),
    ),
    key(
        "maxMsgsNumBatch",
        "64",
        ANY,
        Nothing("a key query is bounded by its request and defaultQueryMaxNum"),
    ),
    key(
        "useEpollNativeSelector",
        "false",
        Bool,
        Nothing("sockets are always served by io_uring"),
    ),
    key("sendMessageThreadPoolNums", "auto", ANY, Nothing(NO_POOLS)),
    key(
        "putMessageFutureThreadPoolNums",
        "auto",
        ANY,
        Nothing(NO_POOLS),
    ),
    key("pullMessageThreadPoolNums", "auto", ANY, Nothing(NO_POOLS)),
    key(
        "litePullMessageThreadPoolNums",
        "auto",
        ANY,
        Nothing(NO_POOLS),
    ),
    key("ackMessageThreadPoolNums", "auto", ANY, Nothing(NO_POOLS)),
    key(
        "processReplyMessageThreadPoolNums",
        "auto",
        ANY,
        Nothing(NO_POOLS),
    ),
    key("queryMessageThreadPoolNums", "auto", ANY, Nothing(NO_POOLS)),
    key("adminBrokerThreadPoolNums", "16", ANY, Nothing(NO_POOLS)),
    key("clientManageThreadPoolNums", "32", ANY, Nothing(NO_POOLS)),
    key("consumerManageThreadPoolNums", "32", ANY, Nothing(NO_POOLS)),
    key("heartbeatThreadPoolNums", "auto", ANY, Nothing(NO_POOLS)),
    key(
        "endTransactionThreadPoolNums",
        "auto",
        ANY,
        Nothing(NO_POOLS),
    ),
    key("serverWorkerThreads", "8", ANY, Nothing(NO_POOLS)),
    key("serverCallbackExecutorThreads", "0", ANY, Nothing(NO_POOLS)),
    key("serverSelectorThreads", "3", ANY, Nothing(NO_POOLS)),
    key(
        "pullThreadPoolQueueCapacity",
        "100000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "replyThreadPoolQueueCapacity",
        "10000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "queryThreadPoolQueueCapacity",
        "20000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "clientManagerThreadPoolQueueCapacity",
        "1000000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "consumerManagerThreadPoolQueueCapacity",
        "1000000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "heartbeatThreadPoolQueueCapacity",
        "50000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "endTransactionPoolQueueCapacity",
        "100000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key("waitTimeMillsInPullQueue", "5000", ANY, Nothing(NO_POOLS)),
    key(
        "waitTimeMillsInLitePullQueue",
        "5000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "waitTimeMillsInHeartbeatQueue",
        "31000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key(
        "waitTimeMillsInTransactionQueue",
        "3000",
        ANY,
        Nothing(NO_POOLS),
    ),
    key("waitTimeMillsInAckQueue", "3000", ANY, Nothing(NO_POOLS)),
    key(
        "timerPrecisionMs",
        "1000",
        ANY,
        Nothing("timed messages are due to the millisecond"),
    ),
    key(
        "validateSystemTopicWhenUpdateTopic",
        "true",
        Bool,
        Nothing("system topics are always protected"),
    ),
    key(
        "storeType",
        "default",
        Text,
        Nothing("Gantry has one storage engine"),
    ),
    key(
        "fetchNamesrvAddrByAddressServer",
        "false",
        Bool,
        DefaultOnly("address servers are not asked; give namesrvAddr"),
    ),
    key(
        "fetchNameSrvAddrByDnsLookup",
        "false",
        Bool,
        DefaultOnly("give the names in namesrvAddr; they are resolved at each connect"),
    ),
    key(
        "rocketmqHome",
        "",
        Path,
        Nothing("Gantry is one binary; it has no home folder"),
    ),
    key(
        "autoDeleteUnusedStats",
        "false",
        Bool,
        Nothing("statistics are bounded by design"),
    ),
    key(
        "enableCalcFilterBitMap",
        "false",
        Bool,
        Nothing("expressions are evaluated when a pull comes"),
    ),
    key(
        "expectConsumerNumUseFilter",
        "32",
        ANY,
        Nothing("expressions are evaluated when a pull comes"),
    ),
    key(
        "filterSupportRetry",
        "false",
        Bool,
        Nothing("a retry topic is filtered by its own subscription"),
    ),
    key("slotNumber", "0", ANY, Nothing(NO_SLAVES)),
];

/// Pop, security, failover, metrics.
pub const FAR: &[Key] = &[
    key(
        "defaultMessageRequestMode",
        "PULL",
        OneOf(&["PULL", "POP"]),
        DefaultOnly(NO_POP),
    ),
    key(
        "defaultPopShareQueueNum",
        "-1",
        Int(-1, i32::MAX as i64),
        Nothing(NO_POP),
    ),
    key("reviveQueueNum", "8", ANY, Nothing(NO_POP)),
    key(
        "popFromRetryProbability",
        "20",
        Int(0, 100),
        Nothing(NO_POP),
    ),
    key("enableRetryTopicV2", "false", Bool, Nothing(NO_POP)),
    key(
        "retrieveMessageFromPopRetryTopicV1",
        "true",
        Bool,
        Nothing(NO_POP),
    ),
    key(
        "popResponseReturnActualRetryTopic",
        "false",
        Bool,
        Nothing(NO_POP),
    ),
    key(
        "initPopOffsetByCheckMsgInMem",
        "true",
        Bool,
        Nothing(NO_POP),
    ),
    key("popConsumerKVServiceEnable", "false", Bool, Nothing(NO_POP)),
    key("enablePopBufferMerge", "false", Bool, Nothing(NO_POP)),
    key("popPollingSize", "1024", ANY, Nothing(NO_POP)),
    key("maxPopPollingSize", "100000", ANY, Nothing(NO_POP)),
    key("serverLoadBalancerEnable", "true", Bool, Nothing(NO_POP)),
    key("aclEnable", "false", Bool, DefaultOnly(NO_AUTH)),
    key("authenticationEnabled", "false", Bool, DefaultOnly(NO_AUTH)),
    key("authorizationEnabled", "false", Bool, DefaultOnly(NO_AUTH)),
    key("authenticationProvider", "", Text, Nothing(NO_AUTH)),
    key("authorizationProvider", "", Text, Nothing(NO_AUTH)),
    key("authenticationMetadataProvider", "", Text, Nothing(NO_AUTH)),
    key("authorizationMetadataProvider", "", Text, Nothing(NO_AUTH)),
    key("initAuthenticationUser", "", Text, Nothing(NO_AUTH)),
    key(
        "innerClientAuthenticationCredentials",
        "",
        Text,
        Nothing(NO_AUTH),
    ),
    key("migrateAuthFromV1Enabled", "false", Bool, Nothing(NO_AUTH)),
    key(
        "configBlackList",
        "configBlackList;brokerConfigPath",
        Text,
        Nothing("the list is fixed: keys read at start can't be changed live"),
    ),
    key(
        "enableSlaveActingMaster",
        "false",
        Bool,
        DefaultOnly(NO_FAILOVER),
    ),
    key(
        "enableRemoteEscape",
        "false",
        Bool,
        DefaultOnly(NO_FAILOVER),
    ),
    key(
        "enableControllerMode",
        "false",
        Bool,
        DefaultOnly(NO_FAILOVER),
    ),
    key("controllerAddr", "", Text, Nothing(NO_FAILOVER)),
    key(
        "enableDLegerCommitLog",
        "false",
        Bool,
        DefaultOnly(NO_FAILOVER),
    ),
    key(
        "metricsExporterType",
        "DISABLE",
        Text,
        Nothing("Gantry's own metrics endpoint is not built yet"),
    ),
    key(
        "metricsPromExporterPort",
        "5557",
        ANY,
        Nothing("Gantry's own metrics endpoint is not built yet"),
    ),
];
