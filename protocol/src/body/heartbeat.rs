//! What a client says about itself.
//!
//! **Owns** `HeartbeatData` and its parts, in every client's dialect (traps 23, 24, 97 to 100).
//! **Lives on** the control plane and clients.
//! **Invariants** nothing but the client's id is required; enums may be names or numbers; tag
//! hashes are rebuilt from the expression.
//! **Limits** `subscription::TAGS_MAX`.
//! **Not here** what a heartbeat changes (`actors`).

use crate::error::BodyError;
use crate::fastjson::{self, Value};
use crate::subscription::{self, TagFilter, split_tags};

macro_rules! wire_enum {
    ($(#[$about:meta])* $name:ident default $default:ident {
        $($(#[$variant_about:meta])* $variant:ident = $number:literal $wire:literal,)*
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_about])* $variant,)* }

        impl $name {
            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $wire,)* }
            }

            /// From a name or a number (trap 97); anything else is the default.
            pub fn from_value(value: Option<&Value>) -> Self {
                match value {
                    Some(Value::Text(text)) => match text.as_str() {
                        $($wire => Self::$variant,)*
                        other => Self::from_number(other.parse().ok()),
                    },
                    other => Self::from_number(other.and_then(Value::as_i64)),
                }
            }

            fn from_number(number: Option<i64>) -> Self {
                match number {
                    $(Some($number) => Self::$variant,)*
                    _ => Self::$default,
                }
            }
        }
    };
}

wire_enum! {
    /// How a consumer gets its messages.
    ConsumeType default Passively {
        /// It pulls by itself.
        Actively = 0 "CONSUME_ACTIVELY",
        /// The client library pulls for it.
        Passively = 1 "CONSUME_PASSIVELY",
        /// It pops.
        Pop = 2 "CONSUME_POP",
    }
}

wire_enum! {
    /// Whether the members of a group share the messages.
    MessageModel default Clustering {
        /// Every member gets every message.
        Broadcasting = 0 "BROADCASTING",
        /// Each message goes to one member.
        Clustering = 1 "CLUSTERING",
    }
}

wire_enum! {
    /// Where a group without an offset starts.
    ConsumeFromWhere default LastOffset {
        /// At the end.
        LastOffset = 0 "CONSUME_FROM_LAST_OFFSET",
        /// Deprecated spelling of the end.
        LastOffsetAndMinWhenBoot = 1 "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
        /// Deprecated spelling of the beginning.
        MinOffset = 2 "CONSUME_FROM_MIN_OFFSET",
        /// Deprecated spelling of the end.
        MaxOffset = 3 "CONSUME_FROM_MAX_OFFSET",
        /// At the beginning.
        FirstOffset = 4 "CONSUME_FROM_FIRST_OFFSET",
        /// At a time.
        Timestamp = 5 "CONSUME_FROM_TIMESTAMP",
    }
}

/// One topic a consumer wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionData {
    /// Topic name.
    pub topic: String,
    /// The expression.
    pub sub_string: String,
    /// `TAG` or `SQL92`.
    pub expression_type: String,
    /// Milliseconds chosen by the client; newer replaces older.
    pub sub_version: i64,
    /// Filter classes of old clients.
    pub class_filter: bool,
    /// Tags of a tag expression.
    pub tags: Vec<String>,
    /// What the expression matches; everything when it is not a tag expression.
    pub filter: TagFilter,
}

impl SubscriptionData {
    /// A subscription by tag expression.
    pub fn tag(topic: impl Into<String>, expression: &str, sub_version: i64) -> Self {
        let expression = if expression.is_empty() {
            subscription::ALL
        } else {
            expression
        };
        let mut made = Self {
            topic: topic.into(),
            sub_string: expression.to_owned(),
            expression_type: subscription::TYPE_TAG.to_owned(),
            sub_version,
            class_filter: false,
            tags: Vec::new(),
            filter: TagFilter::All,
        };
        made.rebuild();
        made
    }

    /// Makes tags and hashes from the expression (traps 24 and 100). A broken expression matches
    /// nothing that has no tag, as in Java, where its set stays empty; one of too many tags would
    /// take many times its length.
    fn rebuild(&mut self) {
        if !subscription::is_tag_type(Some(&self.expression_type)) {
            return;
        }
        let Ok(filter) = TagFilter::parse(&self.sub_string) else {
            self.filter = TagFilter::Codes(smallvec::SmallVec::new());
            return;
        };
        self.filter = filter;
        if self.filter != TagFilter::All {
            self.tags = split_tags(&self.sub_string).map(str::to_owned).collect();
            self.tags.sort();
            self.tags.dedup();
        }
    }

    /// Reads one, in every client's dialect.
    pub fn from_value(value: &Value) -> Self {
        let kind = value.text("expressionType").filter(|kind| !kind.is_empty());
        let mut read = Self {
            topic: value.text_or_empty("topic"),
            sub_string: value.text_or_empty("subString"),
            expression_type: kind.unwrap_or_else(|| subscription::TYPE_TAG.to_owned()),
            sub_version: value.int_or("subVersion", 0),
            class_filter: value.bool_or("classFilterMode", false),
            tags: Vec::new(),
            filter: TagFilter::All,
        };
        read.rebuild();
        read
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        Value::object([
            ("classFilterMode", self.class_filter.into()),
            ("codeSet", Value::list(self.filter.codes().iter().copied())),
            ("expressionType", self.expression_type.as_str().into()),
            ("subString", self.sub_string.as_str().into()),
            ("subVersion", self.sub_version.into()),
            ("tagsSet", Value::list(&self.tags)),
            ("topic", self.topic.as_str().into()),
        ])
    }
}

/// One consumer group of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerData {
    /// Group name.
    pub group: String,
    /// How it gets messages.
    pub consume_type: ConsumeType,
    /// Whether members share them.
    pub message_model: MessageModel,
    /// Where it starts.
    pub consume_from: ConsumeFromWhere,
    /// Its topics.
    pub subscriptions: Vec<SubscriptionData>,
    /// Unit mode of old deployments.
    pub unit_mode: bool,
}

impl ConsumerData {
    fn from_value(value: &Value) -> Self {
        let subscriptions = value.get("subscriptionDataSet").map(Value::elements);
        Self {
            group: value.text_or_empty("groupName"),
            consume_type: ConsumeType::from_value(value.get("consumeType")),
            message_model: MessageModel::from_value(value.get("messageModel")),
            consume_from: ConsumeFromWhere::from_value(value.get("consumeFromWhere")),
            subscriptions: subscriptions
                .unwrap_or_default()
                .iter()
                .map(SubscriptionData::from_value)
                .collect(),
            unit_mode: value.bool_or("unitMode", false),
        }
    }

    fn to_value(&self) -> Value {
        let subscriptions = self.subscriptions.iter().map(SubscriptionData::to_value);
        Value::object([
            ("consumeFromWhere", self.consume_from.name().into()),
            ("consumeType", self.consume_type.name().into()),
            ("groupName", self.group.as_str().into()),
            ("messageModel", self.message_model.name().into()),
            ("subscriptionDataSet", Value::List(subscriptions.collect())),
            ("unitMode", self.unit_mode.into()),
        ])
    }
}

/// Body of `HEART_BEAT` (34).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeartbeatData {
    /// The client's id.
    pub client_id: String,
    /// Its producer groups.
    pub producer_groups: Vec<String>,
    /// Its consumer groups.
    pub consumers: Vec<ConsumerData>,
    /// V2: hash of the client's subscriptions, 0 for V1.
    pub fingerprint: i32,
    /// V2: the subscriptions are left out, only the connection is kept alive.
    pub without_subscriptions: bool,
}

impl HeartbeatData {
    /// Reads a heartbeat.
    ///
    /// # Errors
    /// No JSON, or no client id.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let value = fastjson::parse(body)?;
        let client_id = value.text("clientID").filter(|id| !id.is_empty());
        let producers = value
            .get("producerDataSet")
            .map(Value::elements)
            .unwrap_or_default();
        let consumers = value
            .get("consumerDataSet")
            .map(Value::elements)
            .unwrap_or_default();
        Ok(Self {
            client_id: client_id.ok_or(BodyError::Member("clientID"))?,
            producer_groups: producers
                .iter()
                .filter_map(|p| p.text("groupName"))
                .collect(),
            consumers: consumers.iter().map(ConsumerData::from_value).collect(),
            fingerprint: value.i32_or("heartbeatFingerprint", 0),
            without_subscriptions: value.bool_or("withoutSub", false),
        })
    }

    /// As Java writes it.
    pub fn to_value(&self) -> Value {
        let producer = |group: &String| Value::object([("groupName", group.into())]);
        Value::object([
            ("clientID", self.client_id.as_str().into()),
            (
                "consumerDataSet",
                Value::List(self.consumers.iter().map(ConsumerData::to_value).collect()),
            ),
            ("heartbeatFingerprint", self.fingerprint.into()),
            (
                "producerDataSet",
                Value::List(self.producer_groups.iter().map(producer).collect()),
            ),
            ("withoutSub", self.without_subscriptions.into()),
        ])
    }
}
