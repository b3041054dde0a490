//! What a broker tells a name server.
//!
//! **Owns** `RegisterBrokerBody` in its JSON and compressed forms, and the topic table that is also
//! the reply of 21.
//! **Lives on** the control plane.
//! **Invariants** a claimed checksum is verified over the bytes as they arrived; static-topic
//! mappings are carried through unread.
//! **Limits** [`UNPACKED_BYTES_MAX`], [`TOPICS_MAX`].
//! **Not here** what a registration changes (`actors::namesrv`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{DataVersion, FilterType, TopicConfig};
use crate::error::BodyError;
use crate::fastjson::{self, IntegerKeys, MapWriter, Value};
use crate::message::body_crc;

/// Largest unpacked registration: 100,000 topics of 200 bytes are 20 MB.
pub const UNPACKED_BYTES_MAX: u64 = 64 << 20;
/// Most topics of one registration.
pub const TOPICS_MAX: usize = 1_000_000;
/// Release ordinal from which the compressed form ends with the static-topic mappings.
const VERSION_WITH_MAPPINGS: i32 = 413;
/// The member that holds the topics.
const TOPIC_TABLE: &str = "topicConfigTable";

/// A broker's topics: `TopicConfigAndMappingSerializeWrapper`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopicConfigWrapper {
    /// Version of the table.
    pub data_version: DataVersion,
    /// Version of the static-topic mappings.
    pub mapping_data_version: DataVersion,
    /// The topics, by name.
    pub topics: BTreeMap<String, TopicConfig>,
    /// Static-topic details by topic, as they came.
    pub mapping_details: Option<Value>,
    /// Static-topic summaries by topic, as they came.
    pub mapping_infos: Option<Value>,
}

impl TopicConfigWrapper {
    /// Reads one.
    pub fn from_value(value: &Value) -> Self {
        let version = |name| {
            value
                .get(name)
                .map(DataVersion::from_value)
                .unwrap_or_default()
        };
        let topics = value
            .get(TOPIC_TABLE)
            .map(Value::entries)
            .unwrap_or_default();
        let mut table = BTreeMap::new();
        for (name, config) in topics {
            take_topic(name, config, &mut |config| {
                table.insert(config.name.clone(), config);
            });
        }
        Self {
            data_version: version("dataVersion"),
            mapping_data_version: version("mappingDataVersion"),
            topics: table,
            mapping_details: value.get("topicQueueMappingDetailMap").cloned(),
            mapping_infos: value.get("topicQueueMappingInfoMap").cloned(),
        }
    }

    /// Reads the bytes of one: a registration of brokers before 3.0.11, or the reply of 21.
    ///
    /// # Errors
    /// No JSON.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        Ok(Self::from_value(&fastjson::parse(body)?))
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        let empty = || Value::Map(Vec::new());
        let topics = self
            .topics
            .iter()
            .map(|(name, config)| (name, config.to_value()));
        Value::object([
            ("dataVersion", self.data_version.to_value()),
            ("mappingDataVersion", self.mapping_data_version.to_value()),
            (TOPIC_TABLE, Value::map(topics)),
            (
                "topicQueueMappingDetailMap",
                self.mapping_details.clone().unwrap_or_else(empty),
            ),
            (
                "topicQueueMappingInfoMap",
                self.mapping_infos.clone().unwrap_or_else(empty),
            ),
        ])
    }
}

/// Body of `REGISTER_BROKER` (103).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RegisterBrokerBody {
    /// The broker's topics.
    pub topics: TopicConfigWrapper,
    /// Filter servers of old deployments.
    pub filter_servers: Vec<String>,
}

impl RegisterBrokerBody {
    /// Reads a registration. `claimed_crc` of 0 or `None` is not checked; `version` is the
    /// request's release ordinal.
    ///
    /// # Errors
    /// A wrong checksum, no JSON, or a compressed form that cannot be unpacked.
    pub fn parse(
        body: &[u8],
        compressed: bool,
        claimed_crc: Option<i64>,
        version: i32,
    ) -> Result<Self, BodyError> {
        let mut topics = BTreeMap::new();
        let mut read = Self::parse_with(body, compressed, claimed_crc, version, &mut |config| {
            topics.insert(config.name.clone(), config);
        })?;
        read.topics.topics = topics;
        Ok(read)
    }

    /// As [`RegisterBrokerBody::parse`], but the topics are handed to `take` one by one, in the
    /// order they come in: whoever needs little of them needs little memory.
    ///
    /// # Errors
    /// As [`RegisterBrokerBody::parse`]; what was handed over before does not count then.
    pub fn parse_with(
        body: &[u8],
        compressed: bool,
        claimed_crc: Option<i64>,
        version: i32,
        take: &mut dyn FnMut(TopicConfig),
    ) -> Result<Self, BodyError> {
        check_crc(body, claimed_crc)?;
        if compressed {
            return Self::unpack(body, version, take);
        }
        let mut take = |name: Value, config: Value| take_topic(&name, &config, take);
        let value = fastjson::parse_with_table(body, TOPIC_TABLE, &mut take)?;
        let wrapper = value.get("topicConfigSerializeWrapper");
        Ok(Self {
            topics: wrapper
                .map(TopicConfigWrapper::from_value)
                .unwrap_or_default(),
            filter_servers: value.texts("filterServerList"),
        })
    }

    /// As Java writes it, uncompressed.
    pub fn to_value(&self) -> Value {
        Value::object([
            ("filterServerList", Value::list(&self.filter_servers)),
            ("topicConfigSerializeWrapper", self.topics.to_value()),
        ])
    }

    /// The body to send and its checksum for `bodyCrc32`.
    pub fn encode(&self, compressed: bool) -> (Bytes, u32) {
        let topics = self.topics.topics.values().map(Cow::Borrowed);
        self.encode_with(topics, compressed)
    }

    /// As [`RegisterBrokerBody::encode`], with these topics in the place of its own: they are asked
    /// for one by one.
    pub fn encode_with<'t>(
        &self,
        topics: impl ExactSizeIterator<Item = Cow<'t, TopicConfig>>,
        compressed: bool,
    ) -> (Bytes, u32) {
        let bytes = if compressed {
            self.pack(topics)
        } else {
            self.write(topics)
        };
        let crc = body_crc(&bytes);
        (bytes, crc)
    }

    fn write<'t>(&self, topics: impl Iterator<Item = Cow<'t, TopicConfig>>) -> Bytes {
        let empty = Value::Map(Vec::new());
        let wrapper = &self.topics;
        let mut out = BytesMut::with_capacity(256);
        let mut body = MapWriter::begin(&mut out, IntegerKeys::Quoted);
        body.member("filterServerList", &Value::list(&self.filter_servers));
        let mut inner = body.map("topicConfigSerializeWrapper");
        inner.member("dataVersion", &wrapper.data_version.to_value());
        inner.member(
            "mappingDataVersion",
            &wrapper.mapping_data_version.to_value(),
        );
        let mut table = inner.map(TOPIC_TABLE);
        for config in topics {
            table.member(&config.name, &config.to_value());
        }
        table.end();
        let details = wrapper.mapping_details.as_ref().unwrap_or(&empty);
        inner.member("topicQueueMappingDetailMap", details);
        let infos = wrapper.mapping_infos.as_ref().unwrap_or(&empty);
        inner.member("topicQueueMappingInfoMap", infos);
        inner.end();
        body.end();
        out.freeze()
    }

    fn pack<'t>(&self, topics: impl ExactSizeIterator<Item = Cow<'t, TopicConfig>>) -> Bytes {
        let mut plain = Vec::new();
        let put_text = |out: &mut Vec<u8>, text: &[u8]| {
            out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
            out.put_slice(text);
        };
        let json = |value: &Value| fastjson::to_bytes(value, IntegerKeys::Quoted);
        put_text(&mut plain, &json(&self.topics.data_version.to_value()));
        plain.put_u32(u32::try_from(topics.len()).unwrap_or(u32::MAX));
        for config in topics {
            put_text(&mut plain, topic_line(&config).as_bytes());
        }
        put_text(&mut plain, &json(&Value::list(&self.filter_servers)));
        let details = self
            .topics
            .mapping_details
            .as_ref()
            .map(Value::entries)
            .unwrap_or_default();
        plain.put_u32(u32::try_from(details.len()).unwrap_or(u32::MAX));
        for (_, detail) in details {
            put_text(&mut plain, &json(detail));
        }
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        // Writing into memory does not fail.
        let written = packer.write_all(&plain).and_then(|()| packer.finish());
        written.unwrap_or_default().into()
    }

    fn unpack(
        body: &[u8],
        version: i32,
        take: &mut dyn FnMut(TopicConfig),
    ) -> Result<Self, BodyError> {
        let mut plain = Vec::new();
        let mut unpacker = flate2::read::ZlibDecoder::new(body).take(UNPACKED_BYTES_MAX + 1);
        let bytes = unpacker
            .read_to_end(&mut plain)
            .map_err(|_| BodyError::Unpack("no zlib"))?;
        if u64::try_from(bytes).unwrap_or(u64::MAX) > UNPACKED_BYTES_MAX {
            return Err(BodyError::Unpack("too large"));
        }
        let mut rest = plain.as_slice();
        let data_version = fastjson::parse(take_text(&mut rest)?)?;
        let topics_count = take_u32(&mut rest)?;
        for _ in 0..bounded(topics_count)? {
            let line = std::str::from_utf8(take_text(&mut rest)?);
            let config = line.ok().and_then(parse_topic_line);
            take(config.ok_or(BodyError::Unpack("a topic's line"))?);
        }
        let filters = fastjson::parse(take_text(&mut rest)?)?;
        let filter_servers = filters.elements().iter().filter_map(Value::as_text);
        let filter_servers = filter_servers.map(Into::into).collect();
        let mapping_details = if version >= VERSION_WITH_MAPPINGS && !rest.is_empty() {
            take_mappings(&mut rest)?
        } else {
            None
        };
        let topics = TopicConfigWrapper {
            data_version: DataVersion::from_value(&data_version),
            mapping_details,
            ..TopicConfigWrapper::default()
        };
        Ok(Self {
            topics,
            filter_servers,
        })
    }
}

/// A member of the topic table; one without a name has its key's.
fn take_topic(name: &Value, config: &Value, take: &mut dyn FnMut(TopicConfig)) {
    let mut config = TopicConfig::from_value(config);
    if config.name.is_empty() {
        let Some(name) = name.as_text() else { return };
        config.name = name.into_owned();
    }
    take(config);
}

fn check_crc(body: &[u8], claimed: Option<i64>) -> Result<(), BodyError> {
    let Some(claimed) = claimed
        .and_then(|crc| u32::try_from(crc).ok())
        .filter(|crc| *crc != 0)
    else {
        return Ok(());
    };
    let found = body_crc(body);
    if claimed == found {
        Ok(())
    } else {
        Err(BodyError::Checksum { claimed, found })
    }
}

fn bounded(count: u32) -> Result<usize, BodyError> {
    let count = count as usize;
    if count > TOPICS_MAX {
        Err(BodyError::Unpack("too many topics"))
    } else {
        Ok(count)
    }
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, BodyError> {
    rest.try_get_u32()
        .map_err(|_| BodyError::Unpack("it ends early"))
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BodyError> {
    let bytes = take_u32(rest)? as usize;
    let split = rest
        .split_at_checked(bytes)
        .ok_or(BodyError::Unpack("it ends early"))?;
    *rest = split.1;
    Ok(split.0)
}

fn take_mappings(rest: &mut &[u8]) -> Result<Option<Value>, BodyError> {
    let mut details = Vec::new();
    for _ in 0..bounded(take_u32(rest)?)? {
        let detail = fastjson::parse(take_text(rest)?)?;
        details.push((Value::from(detail.text_or_empty("topic")), detail));
    }
    Ok((!details.is_empty()).then_some(Value::Map(details)))
}

/// `topic readNums writeNums perm filterType attributes`, by single spaces.
fn topic_line(config: &TopicConfig) -> String {
    let attributes = fastjson::to_bytes(&Value::map(&config.attributes), IntegerKeys::Quoted);
    format!(
        "{} {} {} {} {} {}",
        config.name,
        config.read_queue_nums,
        config.write_queue_nums,
        config.perm,
        config.filter_type.name(),
        String::from_utf8_lossy(&attributes),
    )
}

fn parse_topic_line(line: &str) -> Option<TopicConfig> {
    let mut parts = line.splitn(6, ' ');
    let mut config = TopicConfig::new(parts.next()?, 0);
    config.read_queue_nums = parts.next()?.parse().ok()?;
    config.write_queue_nums = parts.next()?.parse().ok()?;
    config.perm = parts.next()?.parse().ok()?;
    config.filter_type = FilterType::of(parts.next()?);
    // Attributes were added in 5.0; a line that cannot be read as a table has none.
    if let Some(Ok(table)) = parts.next().map(|text| fastjson::parse(text.as_bytes())) {
        for (name, value) in table.entries() {
            let pair = (name.as_text()?.into_owned(), value.as_text()?.into_owned());
            config.attributes.insert(pair.0, pair.1);
        }
    }
    Some(config)
}
