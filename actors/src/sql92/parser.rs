//! From the words of an SQL92 expression to its tree.
//!
//! **Owns** the grammar and the checks that 5.5.0 makes when it parses: what may be compared.
//! **Lives on** both planes; pure.
//! **Invariants** the whole text is used (5.5.0 overlooks what stands behind an expression); the
//! tree is at most `DEPTH_MAX` deep, so that evaluating and dropping it is bounded recursion.
//! Chains of `AND` and of `OR` are one node each, however long.
//! **Limits** `super::DEPTH_MAX`, `super::PROPERTIES_MAX`.
//! **Not here** what an expression says of a message (`values`).

use super::lexer::{Token, tokens};
use super::values::{Node, Order, Search, Value};
use super::{DEPTH_MAX, PROPERTIES_MAX, SyntaxError};

/// What was parsed.
pub(super) struct Parsed {
    /// The tree.
    pub root: Node,
    /// The properties it names, by slot.
    pub names: Vec<Box<str>>,
    /// How many comparisons it has.
    pub comparisons: u64,
}

/// A part of the tree, and how deep it is.
struct Tree {
    node: Node,
    depth: u32,
}

impl Tree {
    fn leaf(node: Node) -> Self {
        Self { node, depth: 1 }
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    names: Vec<Box<str>>,
    comparisons: u64,
    /// Open parentheses and signs.
    open: u32,
}

type Outcome = Result<Tree, SyntaxError>;

/// Parses a whole expression.
pub(super) fn parse(text: &str) -> Result<Parsed, SyntaxError> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        names: Vec::new(),
        comparisons: 0,
        open: 0,
    };
    let whole = parser.either()?;
    let root = parser.truth(whole)?.node;
    if *parser.peek() != Token::End {
        return Err(parser.fail("the expression should end here"));
    }
    Ok(Parsed {
        root,
        names: parser.names,
        comparisons: parser.comparisons,
    })
}

impl Parser {
    fn look(&self, ahead: usize) -> &Token {
        let token = self.tokens.get(self.next + ahead);
        token.map_or(&Token::End, |(_, token)| token)
    }

    fn peek(&self) -> &Token {
        self.look(0)
    }

    fn fail(&self, why: impl Into<String>) -> SyntaxError {
        let here = self.tokens.get(self.next).or(self.tokens.last());
        SyntaxError {
            at: here.map_or(0, |(at, _)| *at),
            why: why.into(),
        }
    }

    fn take(&mut self, token: &Token) -> bool {
        let is_next = self.peek() == token;
        self.next += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, token: &Token, what: &str) -> Result<(), SyntaxError> {
        if self.take(token) {
            return Ok(());
        }
        Err(self.fail(format!("{what} is expected")))
    }

    fn grown(&self, node: Node, depth: u32) -> Outcome {
        if depth >= DEPTH_MAX {
            return Err(self.fail(format!("it is nested more than {DEPTH_MAX} deep")));
        }
        let depth = depth + 1;
        Ok(Tree { node, depth })
    }

    /// As a truth value: a property is one by a cast, a number or a text is none.
    fn truth(&self, tree: Tree) -> Outcome {
        match tree.node {
            Node::Property(_) => self.grown(Node::Truth(Box::new(tree.node)), tree.depth),
            _ if tree.node.is_truth() => Ok(tree),
            _ => Err(self.fail("what stands before this is neither true nor false")),
        }
    }

    fn either(&mut self) -> Outcome {
        self.chain(&Token::Or, Self::both, Node::Or)
    }

    fn both(&mut self) -> Outcome {
        self.chain(&Token::And, Self::equality, Node::And)
    }

    fn chain(
        &mut self,
        sign: &Token,
        part: fn(&mut Self) -> Outcome,
        made: fn(Vec<Node>) -> Node,
    ) -> Outcome {
        let first = part(self)?;
        if self.peek() != sign {
            return Ok(first);
        }
        let first = self.truth(first)?;
        let (mut nodes, mut depth) = (vec![first.node], first.depth);
        while self.take(sign) {
            let next = part(self)?;
            let next = self.truth(next)?;
            depth = depth.max(next.depth);
            nodes.push(next.node);
        }
        self.grown(made(nodes), depth)
    }

    fn equality(&mut self) -> Outcome {
        let mut left = self.comparison()?;
        loop {
            let negated = match self.peek() {
                Token::Equal => false,
                Token::Unequal => true,
                Token::Is => {
                    left = self.null_test(left)?;
                    continue;
                }
                _ => return Ok(left),
            };
            self.next += 1;
            let right = self.comparison()?;
            self.check_equal(&left.node, &right.node)?;
            let depth = left.depth.max(right.depth);
            let node = Node::Equal(Box::new(left.node), Box::new(right.node));
            left = self.counted(node, depth, negated)?;
        }
    }

    /// A comparison, perhaps turned round.
    fn counted(&mut self, node: Node, depth: u32, negated: bool) -> Outcome {
        self.comparisons += 1;
        let tree = self.grown(node, depth)?;
        if negated {
            return self.grown(Node::Not(Box::new(tree.node)), tree.depth);
        }
        Ok(tree)
    }

    fn null_test(&mut self, left: Tree) -> Outcome {
        self.next += 1;
        let negated = self.take(&Token::Not);
        self.expect(&Token::Null, "NULL")?;
        self.counted(Node::IsNull(Box::new(left.node)), left.depth, negated)
    }

    fn check_equal(&self, left: &Node, right: &Node) -> Result<(), SyntaxError> {
        use Node::Constant;
        match (left, right) {
            (Constant(Value::Null), _) | (_, Constant(Value::Null)) => {
                Err(self.fail("NULL is not compared with = or <>; use IS NULL"))
            }
            (Constant(Value::Bool(_)), Constant(Value::Bool(_))) => Ok(()),
            (Constant(Value::Bool(_)), Constant(_) | Node::Text(_)) => {
                Err(self.fail("TRUE and FALSE are not compared with a number or a text"))
            }
            _ => Ok(()),
        }
    }

    fn check_order(&self, node: &Node) -> Result<(), SyntaxError> {
        match node {
            Node::Constant(Value::Int(_) | Value::Long(_) | Value::Double(_)) => Ok(()),
            Node::Constant(_) | Node::Text(_) => {
                Err(self.fail("only numbers are compared with < > <= >= BETWEEN"))
            }
            node if node.is_truth() => {
                Err(self.fail("a condition is not compared with < > <= >= BETWEEN"))
            }
            _ => Ok(()),
        }
    }

    fn comparison(&mut self) -> Outcome {
        let mut left = self.signed()?;
        loop {
            let order = match self.peek() {
                Token::Above => Some(Order::Above),
                Token::AtLeast => Some(Order::AtLeast),
                Token::Below => Some(Order::Below),
                Token::AtMost => Some(Order::AtMost),
                _ => None,
            };
            if let Some(order) = order {
                self.next += 1;
                let right = self.signed()?;
                self.check_order(&left.node)?;
                self.check_order(&right.node)?;
                let depth = left.depth.max(right.depth);
                let node = Node::Order(order, Box::new(left.node), Box::new(right.node));
                left = self.counted(node, depth, false)?;
                continue;
            }
            let negated = *self.peek() == Token::Not;
            let search = match self.look(usize::from(negated)) {
                Token::Contains => Some(Search::Contains),
                Token::StartsWith => Some(Search::StartsWith),
                Token::EndsWith => Some(Search::EndsWith),
                Token::Between | Token::In => None,
                _ => return Ok(left),
            };
            self.next += usize::from(negated);
            left = match search {
                Some(search) => self.search(left, search, negated)?,
                None if self.take(&Token::Between) => self.range(left, negated)?,
                None => self.list(&left, negated)?,
            };
        }
    }

    fn search(&mut self, left: Tree, how: Search, negated: bool) -> Outcome {
        self.next += 1;
        let text = self.text()?;
        let of = Box::new(left.node);
        self.counted(
            Node::Search {
                how,
                of,
                text,
                negated,
            },
            left.depth,
            false,
        )
    }

    fn range(&mut self, left: Tree, negated: bool) -> Outcome {
        let low = self.signed()?;
        self.expect(&Token::And, "AND")?;
        let high = self.signed()?;
        for tree in [&left, &low, &high] {
            self.check_order(&tree.node)?;
        }
        if let (false, Node::Constant(low), Node::Constant(high)) = (negated, &low.node, &high.node)
            && high.compare(*low).is_ok_and(std::cmp::Ordering::is_lt)
        {
            return Err(self.fail("BETWEEN has its larger number first"));
        }
        let depth = left.depth.max(low.depth).max(high.depth);
        let parts = Box::new([left.node, low.node, high.node]);
        self.counted(Node::Between { parts, negated }, depth, false)
    }

    fn list(&mut self, left: &Tree, negated: bool) -> Outcome {
        let Node::Property(slot) = left.node else {
            return Err(self.fail("IN follows a property"));
        };
        self.next += 1;
        self.expect(&Token::Open, "(")?;
        let mut words = vec![self.text()?];
        while self.take(&Token::Comma) {
            words.push(self.text()?);
        }
        self.expect(&Token::Close, ")")?;
        words.sort_unstable();
        words.dedup();
        let node = Node::In {
            slot,
            words,
            negated,
        };
        self.counted(node, 0, false)
    }

    fn text(&mut self) -> Result<Box<str>, SyntaxError> {
        let Token::Text(text) = self.peek() else {
            return Err(self.fail("a text in single quotes is expected"));
        };
        let text = text.clone();
        self.next += 1;
        Ok(text)
    }

    fn signed(&mut self) -> Outcome {
        if !matches!(self.peek(), Token::Plus | Token::Minus | Token::Not) {
            return self.primary();
        }
        let sign = self.peek().clone();
        self.next += 1;
        let of = self.nested(Self::signed)?;
        match sign {
            Token::Minus => self.grown(Node::Minus(Box::new(of.node)), of.depth),
            Token::Not => {
                let of = self.truth(of)?;
                self.grown(Node::Not(Box::new(of.node)), of.depth)
            }
            _ => Ok(of),
        }
    }

    /// Goes one level deeper.
    fn nested(&mut self, part: fn(&mut Self) -> Outcome) -> Outcome {
        if self.open >= DEPTH_MAX {
            return Err(self.fail(format!("it is nested more than {DEPTH_MAX} deep")));
        }
        self.open += 1;
        let tree = part(self);
        self.open -= 1;
        tree
    }

    fn primary(&mut self) -> Outcome {
        let node = match self.peek() {
            Token::Open => {
                self.next += 1;
                let tree = self.nested(Self::either)?;
                self.expect(&Token::Close, ")")?;
                return Ok(tree);
            }
            Token::Name(name) => Node::Property(self.slot(&name.clone())?),
            Token::Text(text) => Node::Text(text.clone()),
            Token::Int(value) => Node::Constant(Value::Int(*value)),
            Token::Long(value) => Node::Constant(Value::Long(*value)),
            Token::Double(value) => Node::Constant(Value::Double(*value)),
            Token::True => Node::Constant(Value::Bool(true)),
            Token::False => Node::Constant(Value::Bool(false)),
            Token::Null => Node::Constant(Value::Null),
            Token::End => return Err(self.fail("the expression ends too early")),
            _ => return Err(self.fail("a property, a number or a text is expected")),
        };
        self.next += 1;
        Ok(Tree::leaf(node))
    }

    fn slot(&mut self, name: &str) -> Result<usize, SyntaxError> {
        if let Some(slot) = self.names.iter().position(|known| **known == *name) {
            return Ok(slot);
        }
        if self.names.len() >= PROPERTIES_MAX {
            return Err(self.fail(format!("it has more than {PROPERTIES_MAX} properties")));
        }
        self.names.push(name.into());
        Ok(self.names.len() - 1)
    }
}
