//! Headers of the name server, and of a broker towards it.
//!
//! **Owns** their fields. **Lives on** the control plane and clients. **Invariants** as `request`.
//! **Limits** none of its own. **Not here** bodies (`body::register`, `body::route`).

use super::fields::headers;

headers! {
    /// `GET_ROUTEINFO_BY_TOPIC` (105).
    RouteHeader<'a> {
        topic: &'a str = "topic",
        standard_json: bool = "acceptStandardJsonOnly",
    }

    /// `REGISTER_BROKER` (103).
    RegisterBroker<'a> {
        broker_name: &'a str = "brokerName",
        broker_addr: &'a str = "brokerAddr",
        cluster_name: &'a str = "clusterName",
        ha_server_addr: Option<&'a str> = "haServerAddr",
        broker_id: i64 = "brokerId",
        heartbeat_timeout_ms: Option<i64> = "heartbeatTimeoutMillis",
        acting_master: bool = "enableActingMaster",
        compressed: bool = "compressed",
        /// 0 or absent means unchecked.
        body_crc: Option<i64> = "bodyCrc32",
        zone: Option<&'a str> = "__ZONE_NAME",
    }

    /// Reply of `REGISTER_BROKER`.
    RegisterBrokerReply<'a> {
        ha_server_addr: Option<&'a str> = "haServerAddr",
        /// Only for slaves.
        master_addr: Option<&'a str> = "masterAddr",
    }

    /// `UNREGISTER_BROKER` (104) and `QUERY_DATA_VERSION` (322).
    BrokerIdentity<'a> {
        broker_name: &'a str = "brokerName",
        broker_addr: &'a str = "brokerAddr",
        cluster_name: &'a str = "clusterName",
        broker_id: i64 = "brokerId",
    }

    /// `BROKER_HEARTBEAT` (904), one-way.
    BrokerHeartbeat<'a> {
        cluster_name: &'a str = "clusterName",
        broker_addr: &'a str = "brokerAddr",
        broker_name: &'a str = "brokerName",
        broker_id: Option<i64> = "brokerId",
        heartbeat_timeout_ms: Option<i64> = "heartbeatTimeoutMills",
        epoch: Option<i32> = "epoch",
        max_offset: Option<i64> = "maxOffset",
        confirm_offset: Option<i64> = "confirmOffset",
        election_priority: Option<i32> = "electionPriority",
    }

    /// `GET_BROKER_MEMBER_GROUP` (901).
    MemberGroup<'a> {
        cluster_name: &'a str = "clusterName",
        broker_name: &'a str = "brokerName",
    }

    /// `PUT_KV_CONFIG` (100), `GET_KV_CONFIG` (101) and `DELETE_KV_CONFIG` (102).
    KvHeader<'a> {
        namespace: &'a str = "namespace",
        key: &'a str = "key",
        /// Only for 100.
        value: Option<&'a str> = "value",
    }

    /// `GET_KVLIST_BY_NAMESPACE` (219).
    KvNamespace<'a> {
        namespace: &'a str = "namespace",
    }

    /// `WIPE_WRITE_PERM_OF_BROKER` (205) and `ADD_WRITE_PERM_OF_BROKER` (327).
    BrokerNameHeader<'a> {
        broker_name: &'a str = "brokerName",
    }

    /// `DELETE_TOPIC_IN_NAMESRV` (216).
    DeleteTopic<'a> {
        topic: &'a str = "topic",
        cluster_name: Option<&'a str> = "clusterName",
    }

    /// `GET_TOPICS_BY_CLUSTER` (224).
    ClusterHeader<'a> {
        cluster: &'a str = "cluster",
    }
}
