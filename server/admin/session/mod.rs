//! What the operator commands talk through.
//!
//! **Owns** which brokers a command means, and the words of their failures.
//! **Lives on** the command's tokio runtime.
//! **Invariants** brokers are those that a name server names, cut by `--cluster` and `--broker`; a
//! command that changes something never guesses between clusters.
//! **Limits** `CALL_MAX` a call, one call at a time.
//! **Not here** connections (`crate::client`).

pub mod pages;

use gantry_protocol::Command;
use gantry_protocol::body::{ClusterInfo, TopicRouteData};
use gantry_protocol::code::{request, request_name, response};
use gantry_protocol::command::ExtValue;
use gantry_protocol::fastjson::{self, Value};

use crate::cli::admin::At;
use crate::client::{Cluster, ask, refused};

/// The id of a master.
const MASTER: i64 = 0;

/// One broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its cluster.
    pub cluster: String,
    /// Its name, which a master and its slaves share.
    pub name: String,
    /// 0 for a master.
    pub id: i64,
    /// `host:port`.
    pub address: String,
}

/// A command's way to its brokers.
pub struct Session {
    net: Cluster,
    at: At,
}

impl Session {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// The name servers can't be read.
    pub fn new(at: &At) -> Result<Self, String> {
        let net = Cluster::new(&at.name_servers.namesrv)?;
        let at = at.clone();
        Ok(Self { net, at })
    }

    /// Asks an address and wants success.
    ///
    /// # Errors
    /// It can't be reached, or refuses.
    pub async fn call<'n, 'v>(
        &mut self,
        address: &str,
        code: i32,
        ext: impl IntoIterator<Item = (&'n str, ExtValue<'v>)>,
    ) -> Result<Command, String> {
        let reply = self.any(address, ask(code, ext)).await?;
        self.wanted(address, code, reply)
    }

    /// As [`Session::call`], with a body.
    ///
    /// # Errors
    /// As there.
    pub async fn call_with_body<'n, 'v>(
        &mut self,
        address: &str,
        code: i32,
        ext: impl IntoIterator<Item = (&'n str, ExtValue<'v>)>,
        body: impl Into<bytes::Bytes>,
    ) -> Result<Command, String> {
        let reply = self.any(address, ask(code, ext).with_body(body)).await?;
        self.wanted(address, code, reply)
    }

    /// Asks an address; none when it answers with this code.
    ///
    /// # Errors
    /// It can't be reached, or refuses with another code.
    pub async fn call_unless<'n, 'v>(
        &mut self,
        address: &str,
        code: i32,
        ext: impl IntoIterator<Item = (&'n str, ExtValue<'v>)>,
        missing: i32,
    ) -> Result<Option<Command>, String> {
        let reply = self.any(address, ask(code, ext)).await?;
        if reply.code == missing {
            return Ok(None);
        }
        self.wanted(address, code, reply).map(Some)
    }

    /// Asks a broker one of Gantry's own questions; the JSON of its answer.
    ///
    /// # Errors
    /// As [`Session::call`]; another kind of broker cannot do `what`.
    pub async fn ask_gantry<'n, 'v>(
        &mut self,
        broker: &Broker,
        code: i32,
        ext: impl IntoIterator<Item = (&'n str, ExtValue<'v>)>,
        what: &str,
    ) -> Result<Value, String> {
        let missing = response::REQUEST_CODE_NOT_SUPPORTED;
        let reply = self.call_unless(&broker.address, code, ext, missing);
        let reply = reply.await?.ok_or_else(|| {
            let (name, address) = (&broker.name, &broker.address);
            format!("broker {name} ({address}) cannot {what}: only Gantry does")
        })?;
        fastjson::parse(&reply.body).map_err(|error| error.to_string())
    }

    /// Asks an address; whatever it answers.
    ///
    /// # Errors
    /// It can't be reached.
    pub async fn any(&mut self, address: &str, command: Command) -> Result<Command, String> {
        let what = request_name(command.code).unwrap_or("request");
        let reply = self.net.call(address, command).await;
        reply.map_err(|error| format!("{what} to {address}: {error}"))
    }

    #[allow(clippy::unused_self, reason = "reads as a step of the call")]
    fn wanted(&self, address: &str, code: i32, reply: Command) -> Result<Command, String> {
        if reply.code == response::SUCCESS {
            return Ok(reply);
        }
        let what = request_name(code).unwrap_or("request");
        Err(refused(&format!("{what} to {address}"), &reply))
    }

    /// Asks the first name server that answers.
    ///
    /// # Errors
    /// None does, or it refuses.
    pub async fn ask_name_server<'n, 'v>(
        &mut self,
        code: i32,
        ext: impl IntoIterator<Item = (&'n str, ExtValue<'v>)>,
    ) -> Result<Command, String> {
        let command = ask(code, ext);
        let mut failures = Vec::new();
        for address in self.net.name_servers().to_vec() {
            match self.any(&address, command.clone()).await {
                Ok(reply) => return self.wanted(&address, code, reply),
                Err(error) => failures.push(error),
            }
        }
        Err(failures.join("\n"))
    }

    /// Asks every name server, whatever the others say.
    ///
    /// # Errors
    /// One can't be reached or refuses; all of these are named.
    pub async fn ask_name_servers<'n, 'v>(
        &mut self,
        code: i32,
        ext: impl IntoIterator<Item = (&'n str, ExtValue<'v>)>,
    ) -> Result<(), String> {
        let command = ask(code, ext);
        let mut failures = Vec::new();
        for address in self.net.name_servers().to_vec() {
            let reply = self.any(&address, command.clone()).await;
            let outcome = reply.and_then(|reply| self.wanted(&address, code, reply));
            failures.extend(outcome.err());
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(failures.join("\n"))
    }

    /// Every broker that is meant, masters first in each name.
    ///
    /// # Errors
    /// No name server answers, or nothing is left of what was asked for.
    pub async fn brokers(&mut self) -> Result<Vec<Broker>, String> {
        let reply = self
            .ask_name_server(request::GET_BROKER_CLUSTER_INFO, [])
            .await?;
        let table = ClusterInfo::parse(&reply.body).map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        for data in table.brokers.values() {
            for (id, address) in &data.addresses {
                all.push(Broker {
                    cluster: data.cluster.clone(),
                    name: data.broker_name.clone(),
                    id: *id,
                    address: address.clone(),
                });
            }
        }
        self.cut(all)
    }

    fn cut(&self, mut all: Vec<Broker>) -> Result<Vec<Broker>, String> {
        all.sort_by(|a, b| (&a.cluster, &a.name, a.id).cmp(&(&b.cluster, &b.name, b.id)));
        let known: Vec<&str> = all.iter().map(|broker| broker.name.as_str()).collect();
        let known = known.join(", ");
        all.retain(|broker| self.means(broker));
        if all.is_empty() {
            return Err(match (&self.at.cluster, &self.at.broker) {
                (None, None) => "the name server knows no broker".to_owned(),
                _ => format!("no such cluster or broker; the name server knows: {known}"),
            });
        }
        Ok(all)
    }

    fn means(&self, broker: &Broker) -> bool {
        let cluster = self.at.cluster.as_ref();
        let wanted = self.at.broker.as_ref();
        cluster.is_none_or(|name| *name == broker.cluster)
            && wanted.is_none_or(|name| *name == broker.name || *name == broker.address)
    }

    /// The masters among them.
    ///
    /// # Errors
    /// As [`Session::brokers`].
    pub async fn masters(&mut self) -> Result<Vec<Broker>, String> {
        let mut all = self.brokers().await?;
        all.retain(|broker| broker.id == MASTER);
        Ok(all)
    }

    /// The masters of one cluster, for a change.
    ///
    /// # Errors
    /// As [`Session::brokers`]; also, there are several clusters and none was named.
    pub async fn masters_to_change(&mut self) -> Result<Vec<Broker>, String> {
        let masters = of_one_cluster(self.masters().await?)?;
        if masters.is_empty() {
            return Err("there is no master to change".to_owned());
        }
        Ok(masters)
    }

    /// The masters that hold a topic, for a change.
    ///
    /// # Errors
    /// As [`Session::masters_of`]; also, they are of several clusters and none was named.
    pub async fn masters_of_to_change(&mut self, topic: &str) -> Result<Vec<Broker>, String> {
        of_one_cluster(self.masters_of(topic).await?)
    }

    /// Changes one broker after the other, up to the first that fails: those before are changed.
    ///
    /// # Errors
    /// That one's.
    pub async fn each(
        &mut self,
        brokers: &[Broker],
        mut change: impl AsyncFnMut(&mut Self, &Broker) -> Result<(), String>,
    ) -> Result<(), String> {
        for broker in brokers {
            change(self, broker).await?;
        }
        Ok(())
    }

    /// A topic's route.
    ///
    /// # Errors
    /// No name server answers, or none knows the topic.
    pub async fn route(&mut self, topic: &str) -> Result<TopicRouteData, String> {
        let route = self.net.route(topic).await?;
        route.ok_or_else(|| format!("no name server knows a topic {topic}"))
    }

    /// The masters that hold a topic.
    ///
    /// # Errors
    /// As [`Session::route`]; or none of them is meant.
    pub async fn masters_of(&mut self, topic: &str) -> Result<Vec<Broker>, String> {
        let route = self.route(topic).await?;
        let mut all = Vec::new();
        for data in &route.brokers {
            let master = data.addresses.get(&MASTER);
            all.extend(master.map(|address| Broker {
                cluster: data.cluster.clone(),
                name: data.broker_name.clone(),
                id: MASTER,
                address: address.clone(),
            }));
        }
        self.cut(all)
    }
}

/// A command that changes something never guesses between clusters. Brokers are sorted by theirs.
///
/// # Errors
/// They are of several.
pub fn of_one_cluster(brokers: Vec<Broker>) -> Result<Vec<Broker>, String> {
    let mut clusters: Vec<&str> = brokers.iter().map(|one| one.cluster.as_str()).collect();
    clusters.dedup();
    if clusters.len() > 1 {
        let clusters = clusters.join(", ");
        return Err(format!(
            "there are several clusters ({clusters}): name one with --cluster, or a broker with \
             --broker"
        ));
    }
    Ok(brokers)
}

/// Attributes to be set, as code 17 takes them.
pub fn added_attributes<'a>(attributes: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let each: Vec<String> = attributes
        .map(|(key, value)| format!("+{key}={value}"))
        .collect();
    each.join(",")
}
