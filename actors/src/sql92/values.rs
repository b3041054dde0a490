//! What an SQL92 expression says of a message.
//!
//! **Owns** the tree, and the rules of null and of types, which are those of 5.5.0's
//! `ComparisonExpression` and `LogicExpression`.
//! **Lives on** data cores; pure.
//! **Invariants** a property is a text or null; next to a number it is read as one *of that
//! number's type*, so `a > 5` does not hold for `a` = `7.5`. What can't be read ends it,
//! unless an `AND` or `OR` was decided before. Nothing is allocated.
//! **Limits** recursion: `super::DEPTH_MAX`.
//! **Not here** which trees there are (`parser`).

use std::cmp::Ordering;

use smallvec::SmallVec;

use super::SLOTS_INLINE;

/// The properties of one message by slot.
pub(super) type Slots<'a> = SmallVec<[Option<&'a str>; SLOTS_INLINE]>;

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)] // The names say it.
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(&'a str),
}

/// Two values that can't be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfit;

/// How two numbers should lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum Order {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// Where a text should occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

/// A part of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Anything but a text.
    Constant(Value<'static>),
    /// A text.
    Text(Box<str>),
    /// A property, by slot.
    Property(usize),
    /// A property where a truth value is wanted: never true, as in 5.5.0, null when missing.
    Truth(Box<Node>),
    /// The negative of a number; null of anything else.
    Minus(Box<Node>),
    /// The opposite.
    Not(Box<Node>),
    /// All of them.
    And(Vec<Node>),
    /// One of them.
    Or(Vec<Node>),
    /// Equality.
    Equal(Box<Node>, Box<Node>),
    /// Whether there is no value.
    IsNull(Box<Node>),
    /// A comparison of numbers.
    Order(Order, Box<Node>, Box<Node>),
    /// Value, low and high.
    Between {
        parts: Box<[Node; 3]>,
        negated: bool,
    },
    /// Whether a property is one of these, ascending.
    In {
        slot: usize,
        words: Vec<Box<str>>,
        negated: bool,
    },
    /// Whether a text occurs; false of anything but a text, negated or not.
    Search {
        how: Search,
        of: Box<Node>,
        text: Box<str>,
        negated: bool,
    },
}

type Outcome<'a> = Result<Value<'a>, Unfit>;

impl Node {
    /// Whether it is true, false or null by its form.
    pub(super) fn is_truth(&self) -> bool {
        match self {
            Self::Constant(value) => matches!(value, Value::Null | Value::Bool(_)),
            Self::Text(_) | Self::Property(_) | Self::Minus(_) => false,
            _ => true,
        }
    }

    /// Its value for a message.
    pub(super) fn value<'a>(&'a self, slots: &Slots<'a>) -> Outcome<'a> {
        Ok(match self {
            Self::Constant(value) => *value,
            Self::Text(text) => Value::Text(text),
            Self::Property(slot) => property(slots, *slot),
            Self::Truth(of) => match of.value(slots)? {
                Value::Null => Value::Null,
                other => Value::Bool(other == Value::Bool(true)),
            },
            Self::Minus(of) => minus(of.value(slots)?),
            Self::Not(of) => match of.value(slots)? {
                Value::Bool(truth) => Value::Bool(!truth),
                _ => Value::Null,
            },
            Self::And(parts) => decided(parts, slots, false)?,
            Self::Or(parts) => decided(parts, slots, true)?,
            Self::Equal(left, right) => equal(left.value(slots)?, right.value(slots)?)?,
            Self::IsNull(of) => Value::Bool(of.value(slots)? == Value::Null),
            Self::Order(order, left, right) => order.of(left.value(slots)?, right, slots)?,
            Self::Between { parts, negated } => {
                let [value, low, high] = &**parts;
                between(value.value(slots)?, low, high, *negated, slots)?
            }
            Self::In {
                slot,
                words,
                negated,
            } => match property(slots, *slot) {
                Value::Text(text) => {
                    let found = words.binary_search_by(|word| (**word).cmp(text)).is_ok();
                    Value::Bool(found != *negated)
                }
                _ => Value::Null,
            },
            Self::Search {
                how,
                of,
                text,
                negated,
            } => match of.value(slots)? {
                Value::Text(value) if !text.is_empty() => {
                    Value::Bool(how.occurs(value, text) != *negated)
                }
                _ => Value::Bool(false),
            },
        })
    }
}

fn property<'a>(slots: &Slots<'a>, slot: usize) -> Value<'a> {
    let value = slots.get(slot).copied().flatten();
    value.map_or(Value::Null, Value::Text)
}

fn minus(value: Value<'_>) -> Value<'_> {
    match value {
        Value::Int(value) => Value::Int(value.wrapping_neg()),
        Value::Long(value) => Value::Long(value.wrapping_neg()),
        Value::Double(value) => Value::Double(-value),
        _ => Value::Null,
    }
}

/// `AND` (decided by the first false) or `OR` (by the first true); else null if a part is.
fn decided<'a>(parts: &'a [Node], slots: &Slots<'a>, by: bool) -> Outcome<'a> {
    let mut seen_null = false;
    for part in parts {
        match part.value(slots)? {
            Value::Bool(truth) if truth == by => return Ok(Value::Bool(by)),
            Value::Bool(_) => {}
            _ => seen_null = true,
        }
    }
    Ok(if seen_null {
        Value::Null
    } else {
        Value::Bool(!by)
    })
}

fn equal<'a>(left: Value<'a>, right: Value<'a>) -> Outcome<'a> {
    Ok(match (left, right) {
        (Value::Null, Value::Null) => Value::Bool(true),
        (Value::Null, _) => Value::Null,
        (_, Value::Null) => Value::Bool(false),
        (left, right) => Value::Bool(left.compare(right)?.is_eq()),
    })
}

fn between<'a>(
    value: Value<'a>,
    low: &'a Node,
    high: &'a Node,
    negated: bool,
    slots: &Slots<'a>,
) -> Outcome<'a> {
    let [first, second] = if negated {
        [Order::Below, Order::Above]
    } else {
        [Order::AtLeast, Order::AtMost]
    };
    let one = first.of(value, low, slots)?;
    if one == Value::Bool(negated) {
        return Ok(one);
    }
    let other = second.of(value, high, slots)?;
    if other == Value::Bool(negated) || one != Value::Null {
        return Ok(other);
    }
    Ok(Value::Null)
}

impl Order {
    fn of<'a>(self, left: Value<'a>, right: &'a Node, slots: &Slots<'a>) -> Outcome<'a> {
        if left == Value::Null {
            return Ok(Value::Null);
        }
        let right = right.value(slots)?;
        let lies = match (left, right) {
            (_, Value::Null) => return Ok(Value::Null),
            (Value::Text(left), Value::Text(right)) => {
                compare_doubles(double(left)?, double(right)?)
            }
            (left, right) => left.compare(right)?,
        };
        Ok(Value::Bool(match self {
            Self::Above => lies.is_gt(),
            Self::AtLeast => lies.is_ge(),
            Self::Below => lies.is_lt(),
            Self::AtMost => lies.is_le(),
        }))
    }
}

impl Search {
    fn occurs(self, value: &str, text: &str) -> bool {
        match self {
            Self::Contains => value.contains(text),
            Self::StartsWith => value.starts_with(text),
            Self::EndsWith => value.ends_with(text),
        }
    }
}

impl Value<'_> {
    /// Java's comparison. Types that have nothing in common are "less", whichever stands left.
    pub(super) fn compare(self, other: Value<'_>) -> Result<Ordering, Unfit> {
        use Value::{Bool, Double, Int, Long, Text};
        Ok(match (self, other) {
            (Bool(left), Bool(right)) => left.cmp(&right),
            (Text(left), Text(right)) => left.cmp(right),
            (Text(left), Bool(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
            // Java casts the wrong one of the two and fails.
            (Bool(_), Text(_)) => return Err(Unfit),
            (Int(left), Int(right)) => left.cmp(&right),
            (Int(left), Long(right)) => i64::from(left).cmp(&right),
            (Long(left), Int(right)) => left.cmp(&i64::from(right)),
            (Long(left), Long(right)) => left.cmp(&right),
            (Int(left), Double(right)) => compare_doubles(f64::from(left), right),
            (Double(left), Int(right)) => compare_doubles(left, f64::from(right)),
            (Long(left), Double(right)) => compare_doubles(widened(left), right),
            (Double(left), Long(right)) => compare_doubles(left, widened(right)),
            (Double(left), Double(right)) => compare_doubles(left, right),
            (Int(left), Text(right)) => left.cmp(&number(right)?),
            (Text(left), Int(right)) => number::<i32>(left)?.cmp(&right),
            (Long(left), Text(right)) => left.cmp(&number(right)?),
            (Text(left), Long(right)) => number::<i64>(left)?.cmp(&right),
            (Double(left), Text(right)) => compare_doubles(left, double(right)?),
            (Text(left), Double(right)) => compare_doubles(double(left)?, right),
            _ => Ordering::Less,
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "as Java widens a long")]
fn widened(value: i64) -> f64 {
    value as f64
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, Unfit> {
    text.parse().map_err(|_| Unfit)
}

/// Reads what `Double.valueOf` reads, hexadecimal forms excepted.
fn double(text: &str) -> Result<f64, Unfit> {
    let text = text.trim_matches(|char: char| char <= ' ');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, "NaN" | "Infinity") {
        return number(text);
    }
    let plain = text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text);
    // Rust also knows words such as "inf".
    let is_plain = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    if plain.bytes().all(is_plain) {
        return number(plain);
    }
    Err(Unfit)
}

/// `Double.compare`: negative zero is less than zero, and NaN is the largest.
fn compare_doubles(left: f64, right: f64) -> Ordering {
    match (left.is_nan(), right.is_nan()) {
        (false, false) => left.total_cmp(&right),
        (left, right) => left.cmp(&right),
    }
}
