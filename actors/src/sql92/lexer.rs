//! The words of an SQL92 expression.
//!
//! **Owns** names, keywords, literals, signs and comments.
//! **Lives on** both planes; pure.
//! **Invariants** keywords in any case, names as written; a whole number with `l` or beyond 32 bits
//! is a Java long, and a number with a point must be a positive double (5.5.0 refuses `0.0`).
//! **Limits** the expression's length (`super::EXPRESSION_BYTES_MAX`).
//! **Not here** their order (`parser`).

use super::SyntaxError;
use crate::refusal::quoted;

/// One word.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The names say it.
pub(super) enum Token {
    Name(Box<str>),
    Text(Box<str>),
    Int(i32),
    Long(i64),
    Double(f64),
    Not,
    And,
    Or,
    Between,
    In,
    True,
    False,
    Null,
    Is,
    Contains,
    StartsWith,
    EndsWith,
    Equal,
    Unequal,
    Above,
    AtLeast,
    Below,
    AtMost,
    Open,
    Close,
    Comma,
    Plus,
    Minus,
    End,
}

const KEYWORDS: [(&str, Token); 12] = [
    ("NOT", Token::Not),
    ("AND", Token::And),
    ("OR", Token::Or),
    ("BETWEEN", Token::Between),
    ("IN", Token::In),
    ("TRUE", Token::True),
    ("FALSE", Token::False),
    ("NULL", Token::Null),
    ("IS", Token::Is),
    ("CONTAINS", Token::Contains),
    ("STARTSWITH", Token::StartsWith),
    ("ENDSWITH", Token::EndsWith),
];

/// Signs; the longer ones first.
const SIGNS: [(&str, Token); 11] = [
    ("<>", Token::Unequal),
    (">=", Token::AtLeast),
    ("<=", Token::AtMost),
    ("=", Token::Equal),
    (">", Token::Above),
    ("<", Token::Below),
    ("(", Token::Open),
    (")", Token::Close),
    (",", Token::Comma),
    ("+", Token::Plus),
    ("-", Token::Minus),
];

/// The words of a text with their places; the last one is `End`.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, SyntaxError> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = skip_blanks(text, rest)?;
        let at = text.len() - rest.len();
        if rest.is_empty() {
            found.push((at, Token::End));
            return Ok(found);
        }
        let (token, len) = one(rest).map_err(|why| SyntaxError { at, why })?;
        found.push((at, token));
        rest = rest.get(len..).unwrap_or_default();
    }
}

fn skip_blanks<'a>(text: &str, mut rest: &'a str) -> Result<&'a str, SyntaxError> {
    loop {
        let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
        rest = if let Some(comment) = trimmed.strip_prefix("--") {
            let end = comment.find(['\n', '\r']);
            end.and_then(|end| comment.get(end..)).unwrap_or_default()
        } else if let Some(comment) = trimmed.strip_prefix("/*") {
            let (_, behind) = comment.split_once("*/").ok_or_else(|| SyntaxError {
                at: text.len() - trimmed.len(),
                why: "the comment has no end".to_owned(),
            })?;
            behind
        } else {
            return Ok(trimmed);
        };
    }
}

/// The word at the front, and its bytes.
fn one(rest: &str) -> Result<(Token, usize), String> {
    for (sign, token) in &SIGNS {
        if rest.starts_with(sign) {
            return Ok((token.clone(), sign.len()));
        }
    }
    let first = rest.bytes().next().unwrap_or_default();
    let second = rest.as_bytes().get(1).copied().unwrap_or_default();
    match first {
        b'\'' => text(rest),
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => Ok(word(rest)),
        b'0'..=b'9' => number(rest),
        b'.' if second.is_ascii_digit() => number(rest),
        _ => {
            let unknown: String = rest.chars().take(1).collect();
            Err(format!("{unknown:?} has no meaning here"))
        }
    }
}

/// A text in quotes; two of them stand for one.
fn text(rest: &str) -> Result<(Token, usize), String> {
    let mut value = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, char)) = chars.next() {
        if char != '\'' {
            value.push(char);
        } else if chars.next_if(|(_, next)| *next == '\'').is_some() {
            value.push('\'');
        } else {
            return Ok((Token::Text(value.into()), at + 1));
        }
    }
    Err("the text has no closing quote".to_owned())
}

fn word(rest: &str) -> (Token, usize) {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
    let len = rest.bytes().take_while(is_part).count();
    let word = rest.get(..len).unwrap_or_default();
    let keyword = KEYWORDS
        .iter()
        .find(|(keyword, _)| keyword.eq_ignore_ascii_case(word));
    let token = keyword.map_or_else(|| Token::Name(word.into()), |(_, token)| token.clone());
    (token, len)
}

fn digits(rest: &str, from: usize) -> usize {
    let rest = rest.as_bytes().get(from..).unwrap_or_default();
    rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Bytes of an exponent at `from`; 0 when there is none.
fn exponent(rest: &str, from: usize) -> usize {
    let byte = |at: usize| rest.as_bytes().get(at).copied();
    if !matches!(byte(from), Some(b'e' | b'E')) {
        return 0;
    }
    let sign = usize::from(matches!(byte(from + 1), Some(b'+' | b'-')));
    match digits(rest, from + 1 + sign) {
        0 => 0,
        count => 1 + sign + count,
    }
}

fn number(rest: &str) -> Result<(Token, usize), String> {
    let whole = digits(rest, 0);
    let has_point = rest.as_bytes().get(whole) == Some(&b'.');
    let mut len = whole;
    if has_point {
        len += 1 + digits(rest, whole + 1);
    }
    let power = exponent(rest, len);
    len += power;
    let image = rest.get(..len).unwrap_or_default();
    if has_point || power > 0 {
        return Ok((double(image)?, len));
    }
    if image.len() > 1 && image.starts_with('0') {
        return Err(format!("{}: a number doesn't begin with 0", quoted(image)));
    }
    let value: i64 = image
        .parse()
        .map_err(|_| format!("{} exceeds {}", quoted(image), i64::MAX))?;
    let token = i32::try_from(value).map_or(Token::Long(value), Token::Int);
    let has_suffix = value > 0 && matches!(rest.as_bytes().get(len), Some(b'l' | b'L'));
    Ok((token, len + usize::from(has_suffix)))
}

fn double(image: &str) -> Result<Token, String> {
    let value: f64 = image
        .parse()
        .map_err(|_| format!("{} is not a number", quoted(image)))?;
    if value.is_infinite() {
        return Err(format!("{} exceeds {:e}", quoted(image), f64::MAX));
    }
    if value <= 0.0 {
        let image = quoted(image);
        return Err(format!(
            "{image} is less than the smallest double, 4.9E-324"
        ));
    }
    Ok(Token::Double(value))
}
