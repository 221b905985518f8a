//! Places in an expression's text: from the parser's lines and columns to bytes, and from syntax nodes to all of their text.

use std::ops::Range;

use datafusion_sql::sqlparser::ast::{CastKind, Expr, Spanned, UnaryOperator};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use super::syntax::children;

/// An expression's text and its tokens.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub text: &'a str,
    /// As the parser takes them.
    pub raw: Vec<TokenWithSpan>,
    /// Without white space and comments, with their bytes.
    tokens: Vec<(Range<usize>, Token)>,
    lines: Vec<usize>,
}

/// An expression with more tokens, white space included, is refused before anything recursive meets it.
pub(super) const MAX_TOKENS: usize = 5_000;

/// Why a text has no tokens.
#[derive(Debug)]
pub(super) enum SourceError {
    Token { message: String, at: usize },
    TooLong,
}

impl<'a> Source<'a> {
    pub fn new(text: &'a str) -> Result<Self, SourceError> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut source = Source { text, raw: Vec::new(), tokens: Vec::new(), lines };
        source.raw = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().map_err(|error| {
            SourceError::Token { at: source.offset(error.location), message: error.message }
        })?;
        if source.raw.len() > MAX_TOKENS {
            return Err(SourceError::TooLong);
        }
        source.tokens = source
            .raw
            .iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
            .map(|token| {
                (source.offset(token.span.start)..source.offset(token.span.end), token.token.clone())
            })
            .collect();
        Ok(source)
    }

    /// The byte at a line and column; the end of the text if they lie behind it.
    pub fn offset(&self, location: Location) -> usize {
        let line = usize::try_from(location.line).unwrap_or(usize::MAX).saturating_sub(1);
        let column = usize::try_from(location.column).unwrap_or(usize::MAX).saturating_sub(1);
        let Some(start) = self.lines.get(line).copied() else { return self.text.len() };
        let rest = self.text.get(start..).unwrap_or_default();
        rest.char_indices().nth(column).map_or(self.text.len(), |(at, _)| start + at)
    }

    /// The bytes of a parser's span; `None` where the parser has left it empty.
    pub fn bytes(&self, span: Span) -> Option<Range<usize>> {
        (span.start.line > 0).then(|| self.offset(span.start)..self.offset(span.end))
    }

    /// The token at or after a byte.
    pub fn token_at(&self, byte: usize) -> Range<usize> {
        self.tokens
            .iter()
            .find(|(bytes, _)| bytes.end > byte)
            .map_or(self.text.len()..self.text.len(), |(bytes, _)| bytes.clone())
    }

    /// The last token.
    pub fn last_token(&self) -> Range<usize> {
        self.tokens.last().map_or(self.text.len()..self.text.len(), |(bytes, _)| bytes.clone())
    }

    /// The whole text without the white space around it.
    pub fn whole(&self) -> Range<usize> {
        match (self.tokens.first(), self.tokens.last()) {
            (Some((first, _)), Some((last, _))) => first.start..last.end,
            _ => 0..self.text.len(),
        }
    }

    /// The text of a range.
    pub fn slice(&self, range: &Range<usize>) -> &'a str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    /// The parser's span of a range that begins and ends with tokens.
    pub fn span(&self, range: &Range<usize>) -> Span {
        let start = self.raw.iter().find(|token| self.offset(token.span.start) == range.start);
        let end = self.raw.iter().find(|token| self.offset(token.span.end) == range.end);
        match (start, end) {
            (Some(start), Some(end)) => Span::new(start.span.start, end.span.end),
            _ => Span::empty(),
        }
    }

    /// All of a node's text, where the parser knows only a part of it.
    pub fn range(&self, expr: &Expr) -> Range<usize> {
        let inner = || {
            let inside = children(expr).into_iter().map(|child| self.range(child));
            let own = self.bytes(expr.span());
            inside.chain(own).reduce(|left, right| left.start.min(right.start)..left.end.max(right.end))
        };
        let range = match expr {
            Expr::Nested(_) | Expr::Tuple(_) => inner().map(|range| self.before(self.after(range, 1), 1)),
            Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus | UnaryOperator::Not, .. }
            | Expr::TypedString(_)
            | Expr::Interval(_) => inner().map(|range| self.before(range, 1)),
            Expr::IsNull(_) | Expr::IsTrue(_) | Expr::IsFalse(_) | Expr::IsUnknown(_) => {
                inner().map(|range| self.after(range, 2))
            }
            Expr::IsNotNull(_) | Expr::IsNotTrue(_) | Expr::IsNotFalse(_) | Expr::IsNotUnknown(_) => {
                inner().map(|range| self.after(range, 3))
            }
            Expr::Cast { kind: CastKind::DoubleColon, .. } => inner().map(|range| self.after(range, 2)),
            Expr::Cast { .. }
            | Expr::Extract { .. }
            | Expr::Ceil { .. }
            | Expr::Floor { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::Trim { .. }
            | Expr::Overlay { .. }
            | Expr::Struct { .. } => inner().map(|range| self.call_around(range)),
            Expr::Function(function) => self.bytes(function.name.span()).map(|name| {
                let call = self.call_after(name);
                inner().map_or(call.clone(), |inner| call.start..call.end.max(inner.end))
            }),
            _ => inner(),
        };
        self.balanced(range.unwrap_or_else(|| self.whole()))
    }

    /// `range` and the `count` tokens before it.
    fn before(&self, range: Range<usize>, count: usize) -> Range<usize> {
        let tokens = self.tokens.iter().rev().filter(|(bytes, _)| bytes.end <= range.start);
        tokens.take(count).last().map_or(range.start, |(bytes, _)| bytes.start)..range.end
    }

    /// `range` and the `count` tokens after it.
    fn after(&self, range: Range<usize>, count: usize) -> Range<usize> {
        let tokens = self.tokens.iter().filter(|(bytes, _)| bytes.start >= range.end);
        range.start..tokens.take(count).last().map_or(range.end, |(bytes, _)| bytes.end)
    }

    /// From a function's name to the bracket that closes its arguments, if it has any.
    fn call_after(&self, name: Range<usize>) -> Range<usize> {
        let mut rest = self.tokens.iter().filter(|(bytes, _)| bytes.start >= name.end);
        match rest.next() {
            Some((open, Token::LParen)) => self.balanced(name.start..open.end),
            _ => name,
        }
    }

    /// From the keyword before the bracket around `range` to the bracket that closes it.
    fn call_around(&self, range: Range<usize>) -> Range<usize> {
        let mut closed = 0;
        for (bytes, token) in self.tokens.iter().rev().filter(|(bytes, _)| bytes.end <= range.start) {
            match token {
                Token::RParen => closed += 1,
                Token::LParen if closed == 0 => return self.balanced(self.before(bytes.start..range.end, 1)),
                Token::LParen => closed -= 1,
                _ => {}
            }
        }
        range
    }

    /// `range`, widened until every bracket in it is closed and opened.
    fn balanced(&self, range: Range<usize>) -> Range<usize> {
        fn weight(token: &Token) -> i32 {
            match token {
                Token::LParen | Token::LBracket => 1,
                Token::RParen | Token::RBracket => -1,
                _ => 0,
            }
        }
        let (mut open, mut missing) = (0, 0);
        let inside =
            self.tokens.iter().filter(|(bytes, _)| bytes.start >= range.start && bytes.end <= range.end);
        for (_, token) in inside {
            open += weight(token);
            if open < 0 {
                (open, missing) = (0, missing + 1);
            }
        }
        let Range { mut start, mut end } = range;
        for (bytes, token) in self.tokens.iter().filter(|(bytes, _)| bytes.start >= range.end) {
            if open == 0 {
                break;
            }
            open += weight(token);
            end = bytes.end;
        }
        for (bytes, token) in self.tokens.iter().rev().filter(|(bytes, _)| bytes.end <= range.start) {
            if missing == 0 {
                break;
            }
            missing -= weight(token);
            start = bytes.start;
        }
        start..end
    }
}
