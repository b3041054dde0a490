use gantry_protocol::properties::append;
use proptest::prelude::*;

use super::*;

fn properties(of: &[(&str, &str)]) -> String {
    let mut out = Vec::new();
    for (name, value) in of {
        append(&mut out, name, value);
    }
    String::from_utf8(out).unwrap()
}

fn matches(expression: &str, of: &[(&str, &str)]) -> bool {
    let parsed =
        Expression::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    parsed.matches(&properties(of))
}

fn holds(expression: &str, of: &[(&str, &str)]) {
    assert!(matches(expression, of), "{expression} of {of:?}");
}

fn fails(expression: &str, of: &[(&str, &str)]) {
    assert!(!matches(expression, of), "{expression} of {of:?}");
}

#[test]
fn numbers_are_compared_as_the_literal_is_typed() {
    holds("a > 5", &[("a", "6")]);
    fails("a > 5", &[("a", "5")]);
    holds("a >= 5 AND a <= 5 and not (a <> 5)", &[("a", "+5")]);
    // Integer.valueOf("7.5") fails in Java, and so does the whole expression.
    fails("a > 5", &[("a", "7.5")]);
    fails("a > 5 OR TRUE", &[("a", "7.5")]);
    holds("TRUE OR a > 5", &[("a", "7.5")]);
    holds("a > 5.0", &[("a", "7.5")]);
    holds("a > 5.", &[("a", " 7.5d ")]);
    fails("a > 5.0", &[("a", "inf")]);
    holds("a > 5e3", &[("a", "Infinity")]);
    holds("5 < a", &[("a", "6")]);
    // One beyond 32 bits reads as a long only next to a long.
    fails("a > 5", &[("a", "3000000000")]);
    holds("a > 2999999999", &[("a", "3000000000")]);
    holds("a > -6 AND -a < 4 IS NULL", &[("a", "-5")]);
    holds("a BETWEEN -5 AND 5L", &[("a", "0")]);
    fails("a NOT BETWEEN -5 AND 5", &[("a", "5")]);
    holds("a NOT BETWEEN -5 AND 5", &[("a", "6")]);
    // Two texts are numbers for < and >, and texts for =.
    holds("a < b AND a <> b", &[("a", "9"), ("b", "10")]);
    fails("a < b", &[("a", "x"), ("b", "y")]);
    fails("a = b", &[("a", "1.0"), ("b", "1")]);
    // Null on the right is no null: what is there differs from what is not.
    holds("a <> b", &[("a", "1")]);
    fails("b <> a", &[("a", "1")]);
}

#[test]
fn null_is_neither_true_nor_false() {
    for unknown in [
        "a = 1",
        "a <> 1",
        "a > 1",
        "NOT (a > 1)",
        "a IN ('x')",
        "a NOT IN ('x')",
        "a BETWEEN 1 AND 2",
        "a NOT BETWEEN 1 AND 2",
        "NULL",
        "NOT NULL",
        "a",
        "NOT a",
        "a = 1 AND TRUE",
        "a = 1 OR FALSE",
    ] {
        fails(unknown, &[]);
        fails(&format!("NOT ({unknown})"), &[]);
        holds(&format!("({unknown}) IS NULL"), &[]);
    }
    holds("a IS NULL", &[("b", "1")]);
    holds("b IS NOT NULL", &[("b", "1")]);
    holds("a = 1 OR TRUE", &[]);
    holds("NOT (a = 1 AND FALSE)", &[]);
    // An empty value is no value, as everywhere in Java's property strings.
    holds("a IS NULL", &[("a", "")]);
}

#[test]
fn texts_and_truths() {
    holds(
        "color = 'it''s' AND TAGS = 'T1'",
        &[("color", "it's"), ("TAGS", "T1")],
    );
    holds(
        "c IN ('red','blue') AND c NOT IN ('green')",
        &[("c", "blue")],
    );
    holds(
        "c contains 'lu' and c STARTSWITH 'b' and c EndsWith 'ue'",
        &[("c", "blue")],
    );
    holds(
        "c NOT CONTAINS 'x' AND c NOT STARTSWITH 'x' AND c NOT ENDSWITH 'x'",
        &[("c", "blue")],
    );
    // Of what is no text they are false either way.
    for search in ["CONTAINS", "STARTSWITH", "ENDSWITH"] {
        fails(&format!("c {search} 'x'"), &[]);
        fails(&format!("c NOT {search} 'x'"), &[]);
        fails(&format!("c NOT {search} ''"), &[("c", "blue")]);
    }
    holds("ok = TRUE", &[("ok", "True")]);
    holds("ok = FALSE", &[("ok", "no")]);
    // Java casts the wrong side here.
    fails("TRUE = ok OR TRUE", &[("ok", "true")]);
    // A property alone is a text, never true.
    fails("ok", &[("ok", "true")]);
    holds("NOT ok", &[("ok", "true")]);
    // NOT binds to the next word, so this asks whether a truth equals a number.
    fails("NOT a = 1", &[("a", "2")]);
    holds("NOT (a = 1)", &[("a", "2")]);
    holds(
        "a = 1 /* and */ AND -- more\n b = 2",
        &[("a", "1"), ("b", "2")],
    );
    holds(
        "订单 = 1 IS NULL OR $a_1 = 'ü'".trim_start_matches("订单 = 1 IS NULL OR "),
        &[("$a_1", "ü")],
    );
    // AND binds closer than OR.
    holds("TRUE OR TRUE AND FALSE", &[]);
    // Names are case-sensitive; of duplicates the last counts.
    fails("A = 1", &[("a", "1")]);
    holds("a = 2", &[("a", "1"), ("a", "2")]);
}

#[test]
fn what_is_no_expression_says_where_and_why() {
    for bad in [
        "",
        " ",
        "a > > 3",
        "a >",
        "a = ",
        "a 5",
        "5",
        "'x'",
        "a AND",
        "a AND 5",
        "(a = 1",
        "a = 1)",
        "a = 'x",
        "a = 1 garbage",
        "a LIKE 'x'",
        "a != 1",
        "a = 1; b",
        "a > 'x'",
        "a > TRUE",
        "a > NULL",
        "a = NULL",
        "NULL <> a",
        "TRUE = 1",
        "TRUE = 'x'",
        "a BETWEEN 5 AND 1",
        "a BETWEEN 'a' AND 'b'",
        "a BETWEEN 1",
        "a IN ()",
        "a IN (1)",
        "a IN 'x'",
        "5 IN ('5')",
        "a NOT 5",
        "a IS 5",
        "a IS NOT 5",
        "a CONTAINS b",
        "NOT a > 3",
        "(a = 1) > 2",
        "a = 007",
        "a = 9223372036854775808",
        "a = 1e999",
        "a = 0.0",
        "a /* b",
        "a = #",
        "订单 = 1",
    ] {
        let error = Expression::parse(bad).expect_err(bad);
        assert!(
            error.at <= bad.len() && !error.why.is_empty(),
            "{bad}: {error}"
        );
    }
    assert_eq!(
        Expression::parse("a > > 3").unwrap_err().to_string(),
        "not an SQL92 expression, at byte 4: a property, a number or a text is expected"
    );
    // Numbers that are not written out may lie the wrong way round.
    fails("a BETWEEN -1 AND -5", &[("a", "-2")]);
}

#[test]
fn depth_length_and_names_are_bounded() {
    let deep = |count: usize| format!("{}a = 1{}", "(".repeat(count), ")".repeat(count));
    assert!(Expression::parse(&deep(60)).is_ok());
    assert!(Expression::parse(&deep(5_000)).is_err());
    for sign in ["NOT ", "- ", "+ "] {
        assert!(Expression::parse(&format!("{}a", sign.repeat(3_000))).is_err());
    }
    assert!(Expression::parse(&format!("a{}", " = 1".repeat(3_000))).is_err());
    assert!(Expression::parse(&format!("a{}", " IS NULL".repeat(1_500))).is_err());
    // A chain is not depth.
    let chain = vec!["a = 1"; 1_500].join(" OR ");
    assert!(chain.len() < EXPRESSION_BYTES_MAX);
    let chain = Expression::parse(&chain).unwrap();
    assert!(chain.matches(&properties(&[("a", "1")])));
    assert!(chain.scan_bytes_max() < SCAN_BYTES_MAX / 100 && chain.scan_bytes_max() > 0);
    assert_eq!(
        Expression::parse("a = 1").unwrap().scan_bytes_max(),
        SCAN_BYTES_MAX
    );
    let names: Vec<_> = (0..=PROPERTIES_MAX).map(|n| format!("a{n} = 1")).collect();
    assert!(Expression::parse(&names.join(" OR ")).is_err());
    assert!(Expression::parse(&names[1..].join(" OR ")).is_ok());
    let long = format!("a = '{}'", "x".repeat(EXPRESSION_BYTES_MAX));
    assert!(Expression::parse(&long).is_err());
}

#[test]
fn what_is_no_record_is_not_wanted() {
    let all = Expression::parse("TRUE").unwrap();
    assert!(!all.matches_record(b"") && !all.matches_record(&[0; 200]));
}

/// An expression together with what it should say: true, false or null.
fn with_meaning() -> impl Strategy<Value = (String, Option<bool>)> {
    let leaf = prop_oneof![
        (-3..8_i32, 0..3_usize).prop_map(|(number, sign)| {
            let (sign, holds) = [("=", 5 == number), ("<", 5 < number), (">=", 5 >= number)][sign];
            (format!("five {sign} {number}"), Some(holds))
        }),
        any::<bool>().prop_map(|truth| (format!("{truth}"), Some(truth))),
        Just(("missing = 1".to_owned(), None)),
        (0..6_i32, 4..9_i32).prop_map(|(low, high)| {
            let text = format!("five NOT BETWEEN {low} AND {high}");
            (text, Some(5 < low || 5 > high))
        }),
    ];
    leaf.prop_recursive(6, 40, 3, |inner| {
        prop_oneof![
            inner
                .clone()
                .prop_map(|(text, truth)| (format!("not ({text})"), truth.map(|t| !t))),
            inner
                .clone()
                .prop_map(|(text, truth)| (format!("({text}) Is Null"), Some(truth.is_none()))),
            prop::collection::vec(inner.clone(), 2..4)
                .prop_map(|parts| joined(&parts, " AND ", false)),
            prop::collection::vec(inner, 2..4).prop_map(|parts| joined(&parts, " OR ", true)),
        ]
    })
}

fn joined(parts: &[(String, Option<bool>)], sign: &str, decides: bool) -> (String, Option<bool>) {
    let texts: Vec<_> = parts.iter().map(|(text, _)| format!("({text})")).collect();
    let truth = if parts.iter().any(|(_, truth)| *truth == Some(decides)) {
        Some(decides)
    } else if parts.iter().any(|(_, truth)| truth.is_none()) {
        None
    } else {
        Some(!decides)
    };
    (texts.join(sign), truth)
}

proptest! {
    #[test]
    fn logic_has_three_values((text, truth) in with_meaning()) {
        let of = properties(&[("five", "5")]);
        let parsed = Expression::parse(&text).unwrap();
        prop_assert_eq!(parsed.matches(&of), truth == Some(true), "{}", text);
        let negated = Expression::parse(&format!("NOT ({text})")).unwrap();
        prop_assert_eq!(negated.matches(&of), truth == Some(false), "{}", text);
    }

    #[test]
    fn any_text_ends_in_an_expression_or_an_error(text in "\\PC{0,200}", of in "\\PC{0,200}") {
        if let Ok(parsed) = Expression::parse(&text) {
            parsed.matches(&of);
        }
    }

    #[test]
    fn any_words_end_in_an_expression_or_an_error(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "a", "b", "NOT", "AND", "OR", "BETWEEN", "IN", "IS", "NULL", "TRUE", "(", ")", ",",
                "=", "<>", "<", ">=", "'x'", "5", "2.5", "7L", "-", "+", "CONTAINS", "ENDSWITH",
            ]),
            0..24,
        ),
        value in "[0-9.xeE+-]{0,5}",
    ) {
        if let Ok(parsed) = Expression::parse(&words.join(" ")) {
            parsed.matches(&properties(&[("a", &value), ("b", "3")]));
        }
    }
}
