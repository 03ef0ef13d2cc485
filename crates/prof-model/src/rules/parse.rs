//! How a rule is read.

use super::error::Fault;
use super::error::Span;
use super::pattern::MAX_COMM;
use super::pattern::MAX_PATTERN;
use super::pattern::Pattern;
use super::rule::Key;
use super::rule::Term;
use super::rule::Value;
use crate::text;

/// The terms of a rule.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) terms: Vec<Term>,
    pub(super) follow: bool,
    pub(super) freq: Option<u32>,
    /// Just behind the last of them: whitespace or a comment may come after.
    pub(super) end: usize,
}

/// `NAME:` in front, if there is one, and what comes after it.
pub(super) fn split_name(text: &str) -> (Option<&str>, &str) {
    let trimmed = text.trim_start();
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name = &trimmed[..trimmed.find(|c| !of_name(c)).unwrap_or(trimmed.len())];
    match trimmed[name.len()..].strip_prefix(':') {
        Some(rest) if !name.is_empty() && !rest.starts_with(|c: char| !c.is_whitespace()) => {
            (Some(name), rest)
        }
        _ => (None, text),
    }
}

/// Reads terms with whitespace between them.
pub(super) fn terms(text: &str) -> Result<Parsed, Fault> {
    let mut cursor = Cursor { text, at: 0 };
    let mut parsed = Parsed { terms: Vec::new(), follow: false, freq: None, end: 0 };
    loop {
        cursor.skip_while(char::is_whitespace);
        match cursor.peek() {
            None | Some('#') => return Ok(parsed),
            Some(_) => {}
        }
        match cursor.term()? {
            Word::Term(term) => parsed.terms.push(term),
            Word::Follow => parsed.follow = true,
            Word::Freq(_, span) if parsed.freq.is_some() => {
                return Err(Fault::new(span, "a rule has one frequency"));
            }
            Word::Freq(hz, _) => parsed.freq = Some(hz),
        }
        parsed.end = cursor.at;
    }
}

/// What stands between two spaces.
enum Word {
    Term(Term),
    Follow,
    Freq(u32, Span),
}

/// A value with quotes and escapes resolved.
struct Raw {
    bytes: Vec<u8>,
    /// Which of `bytes` are a `*` with its meaning.
    stars: Vec<usize>,
    quoted: bool,
    span: Span,
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn skip_while(&mut self, f: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&f) {
            self.next();
        }
    }

    /// From `at` to here.
    fn span_from(&self, at: usize) -> Span {
        Span::between(at, self.at)
    }

    /// The character here, or an empty place at the end.
    fn span_here(&self) -> Span {
        Span { at: self.at, len: self.peek().map_or(0, char::len_utf8) }
    }

    /// A term, or what else there is to say of a rule.
    fn term(&mut self) -> Result<Word, Fault> {
        let start = self.at;
        self.skip_while(|c| !c.is_whitespace() && !matches!(c, '=' | '!' | '<' | '>' | ',' | '"'));
        let word = &self.text[start..self.at];
        let span = self.span_from(start);
        if self.peek().is_none_or(char::is_whitespace) {
            return bare(word, span);
        }
        if word.is_empty() {
            let message = "a key is missing: a term is key=value, key!=value, container, \
                           not-container or follow";
            return Err(Fault::new(self.span_here(), message));
        }
        if word == "freq" {
            return self.freq(start);
        }
        let Some(key) = Key::from_name(word) else {
            return Err(Fault::new(span, unknown("key", word)));
        };
        let operator = self.span_here();
        let negated = self.eat("!=");
        if !negated && !self.eat("=") {
            return Err(Fault::new(operator, "only = and != can stand behind a key"));
        }
        if key == Key::Container {
            self.skip_while(|c| !c.is_whitespace());
            let message = "`container` takes no value: say `container` or `not-container`";
            return Err(Fault::new(self.span_from(start), message));
        }
        if !negated && self.peek() == Some('=') {
            return Err(Fault::new(self.span_here(), "one = is enough"));
        }
        let mut values = Vec::new();
        loop {
            let raw = self.value()?;
            let span = raw.span;
            values.push((typed(key, raw)?, span));
            if !self.eat(",") {
                let span = self.span_from(start);
                return Ok(Word::Term(Term { key, negated, values, span }));
            }
        }
    }

    /// What stands behind `freq`, which began at `start`.
    fn freq(&mut self, start: usize) -> Result<Word, Fault> {
        self.skip_while(|c| !c.is_whitespace());
        let span = self.span_from(start);
        let hz = self.text[start..self.at].strip_prefix("freq=").and_then(|n| n.parse().ok());
        match hz {
            Some(hz) if (1..=MAX_FREQ).contains(&hz) => Ok(Word::Freq(hz, span)),
            _ => {
                let message = format!("freq=HZ takes samples a second, 1 to {MAX_FREQ}");
                Err(Fault::new(span, message))
            }
        }
    }

    /// One value, up to a comma, whitespace or the end.
    fn value(&mut self) -> Result<Raw, Fault> {
        let start = self.at;
        let mut raw =
            Raw { bytes: Vec::new(), stars: Vec::new(), quoted: false, span: Span::default() };
        // Where the quotes were opened that are not closed yet.
        let mut open = None;
        while let Some(c) = self.peek() {
            let here = self.at;
            match c {
                ',' if open.is_none() => break,
                c if open.is_none() && c.is_whitespace() => break,
                '"' => {
                    self.next();
                    raw.quoted = true;
                    open = match open {
                        None => Some(here),
                        Some(_) => None,
                    };
                }
                '\\' if open.is_some() => raw.bytes.push(self.escape()?),
                c => {
                    self.next();
                    if c == '*' {
                        raw.stars.push(raw.bytes.len());
                    }
                    raw.bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
        if let Some(at) = open {
            let message = "these quotes are never closed; a quote itself is \\\" inside quotes";
            return Err(Fault::new(self.span_from(at), message));
        }
        raw.span = self.span_from(start);
        if raw.bytes.is_empty() && !raw.quoted {
            return Err(Fault::new(self.span_here(), "a value is missing"));
        }
        if raw.bytes.contains(&0) {
            return Err(Fault::new(raw.span, "no name and no path holds a NUL"));
        }
        Ok(raw)
    }

    /// The byte that a backslash and what is behind it stand for.
    fn escape(&mut self) -> Result<u8, Fault> {
        let start = self.at;
        self.next();
        match self.next() {
            Some(c @ ('"' | '\\' | '*')) => Ok(c as u8),
            Some('x') => {
                let digits = self.text.get(self.at..self.at + 2);
                // from_str_radix would take a sign.
                let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
                if byte.is_some() {
                    self.at += 2;
                }
                byte.ok_or_else(|| Fault::new(self.span_from(start), "\\x needs two hex digits"))
            }
            _ => Err(Fault::new(
                self.span_from(start),
                "inside quotes a backslash stands before \", \\, * or xHH only",
            )),
        }
    }
}

/// Most samples a second that can be asked for.
pub const MAX_FREQ: u32 = 100_000;

/// A word without a value.
fn bare(word: &str, span: Span) -> Result<Word, Fault> {
    match word {
        "follow" => Ok(Word::Follow),
        "freq" => Err(Fault::new(span, "`freq` needs a value, without spaces: freq=99")),
        "container" | "not-container" => Ok(Word::Term(Term {
            key: Key::Container,
            negated: word != "container",
            values: Vec::new(),
            span,
        })),
        _ if Key::from_name(word).is_some() => {
            Err(Fault::new(span, format!("`{word}` needs a value, without spaces: {word}=…")))
        }
        _ if word.ends_with(':') => Err(Fault::new(
            span,
            "this is no term; the name of a rule comes first, has letters, digits, '.', '_' and \
             '-' only, and cannot be given with -s",
        )),
        _ => Err(Fault::new(span, unknown("term", word))),
    }
}

/// `unknown …`, and what was perhaps meant.
fn unknown(what: &str, word: &str) -> String {
    let lower = word.to_lowercase();
    let near = Key::ALL
        .iter()
        .flat_map(|k| k.aliases().iter().copied().chain([k.name()]))
        .chain(["not-container", "follow", "freq"])
        .map(|name| (text::distance(&lower, name), name))
        .filter(|(d, name)| *d <= name.len() / 3)
        .min();
    let hint = match near {
        Some((_, name)) => format!("did you mean {name}?"),
        None if what == "term" => {
            "a value that holds a space is put in quotes: comm=\"a b\"".to_owned()
        }
        None => {
            let names: Vec<_> = Key::ALL.iter().map(|k| k.name()).collect();
            format!("keys are {}", names.join(", "))
        }
    };
    format!("unknown {what} '{word}'; {hint}")
}

/// The value as its key has it.
fn typed(key: Key, raw: Raw) -> Result<Value, Fault> {
    let span = raw.span;
    if matches!(key, Key::Comm | Key::Exe) {
        let pattern = pattern(raw)?;
        let checked = if key == Key::Comm { check_comm(&pattern) } else { check_exe(&pattern) };
        return checked.map(|()| Value::Text(pattern)).map_err(|m| Fault::new(span, m));
    }
    let Ok(word) = String::from_utf8(raw.bytes) else {
        return Err(Fault::new(span, "this is not UTF-8"));
    };
    let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let number = |word: &str| {
        word.parse().map_err(|_| Fault::new(span, format!("larger than {}", u32::MAX)))
    };
    match key {
        Key::Uid | Key::Gid if is_number => number(&word).map(Value::Number),
        Key::Cgroup => cgroup(word).map_err(|m| Fault::new(span, m)),
        Key::Uid | Key::Gid if word.is_empty() => Err(Fault::new(span, "a value is missing")),
        Key::Uid | Key::Gid => Ok(Value::Name(word)),
        _ if is_number => match number(&word)? {
            0 => Err(Fault::new(span, nobody_has(key))),
            n => Ok(Value::Number(n)),
        },
        _ => Err(Fault::new(span, format!("{} is a decimal number", key.name()))),
    }
}

/// Why a 0 names nobody.
fn nobody_has(key: Key) -> &'static str {
    match key {
        Key::Mntns | Key::Pidns => {
            "no namespace has the number 0: `ls -Li /proc/PID/ns` shows them"
        }
        _ => "no process has the id 0: what the kernel does by itself is not profiled",
    }
}

/// A path, or `id:NUMBER`.
fn cgroup(word: String) -> Result<Value, &'static str> {
    match word.strip_prefix("id:") {
        Some(id) if id.bytes().all(|b| b.is_ascii_digit()) => {
            let id = id.parse().ok().filter(|id| *id != 0);
            id.map(Value::CgroupId).ok_or("not the id of a cgroup: that is its folder's inode")
        }
        Some(_) => Err("the id of a cgroup is a decimal number"),
        None if word.is_empty() => Err("a value is missing"),
        None => Ok(Value::CgroupPath(word)),
    }
}

fn pattern(raw: Raw) -> Result<Pattern, Fault> {
    let Raw { mut bytes, stars, span, .. } = raw;
    match stars.as_slice() {
        [] => Ok(Pattern::Literal(bytes)),
        [at] if *at + 1 == bytes.len() => {
            bytes.pop();
            Ok(Pattern::Prefix(bytes))
        }
        [0] => {
            bytes.remove(0);
            Ok(Pattern::Suffix(bytes))
        }
        _ => Err(Fault::new(
            span,
            "one * may stand at one end: x* or *x; a * that is part of a name is \\* inside quotes",
        )),
    }
}

fn check_comm(pattern: &Pattern) -> Result<(), String> {
    if pattern.bytes().len() <= MAX_COMM {
        return Ok(());
    }
    let cut = text::for_terminal(&pattern.bytes()[..MAX_COMM]);
    Err(match pattern {
        Pattern::Suffix(_) => {
            format!("the kernel cuts names at {MAX_COMM} bytes; exe has the rest")
        }
        _ => format!("the kernel cuts names at {MAX_COMM} bytes; perhaps '{cut}' is meant"),
    })
}

fn check_exe(pattern: &Pattern) -> Result<(), String> {
    let bytes = pattern.bytes();
    let most = match pattern {
        Pattern::Literal(_) => MAX_PATTERN - 1,
        _ => MAX_PATTERN,
    };
    if bytes.len() > most {
        return Err(format!("{} bytes; {most} is the most there can be here", bytes.len()));
    }
    let any_start = match pattern {
        Pattern::Suffix(_) => true,
        Pattern::Prefix(p) => p.is_empty(),
        Pattern::Literal(_) => false,
    };
    if any_start || bytes.starts_with(b"/") {
        return Ok(());
    }
    Err("a program is an absolute path (/usr/bin/x, /opt/*) or the end of one (*/x)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::rule::Rule;
    use super::*;
    use proptest::prelude::*;

    fn values(text: &str) -> Vec<Value> {
        let parsed = terms(text).unwrap_or_else(|f| panic!("{text}: {}", f.message));
        parsed.terms.into_iter().flat_map(|t| t.values).map(|(v, _)| v).collect()
    }

    /// What is wrong, and the part of the text at fault.
    fn fault(text: &str) -> (String, &str) {
        let f = terms(text).expect_err(text);
        (f.message, &text[f.span.at..f.span.at + f.span.len])
    }

    fn literal(s: &str) -> Value {
        Value::Text(Pattern::Literal(s.into()))
    }

    #[test]
    fn strings_take_a_star_at_one_end() {
        assert_eq!(
            values("comm=a,b*,*c,*"),
            [
                literal("a"),
                Value::Text(Pattern::Prefix("b".into())),
                Value::Text(Pattern::Suffix("c".into())),
                Value::Text(Pattern::Prefix("".into())),
            ]
        );
        for text in ["a*b", "*a*", "**", "a**", "**a"] {
            let rule = format!("uid=0 comm=x,{text}");
            let (message, place) = fault(&rule);
            assert!(message.contains("x* or *x"), "{message}");
            assert_eq!(place, text);
        }
    }

    #[test]
    fn quotes_hold_anything() {
        assert_eq!(values(r#"comm="a b",c"#), [literal("a b"), literal("c")]);
        assert_eq!(values(r#"comm="a,b" comm="a\"\\ #""#), [literal("a,b"), literal("a\"\\ #")]);
        assert_eq!(values(r#"comm="" "#), [literal("")]);
        assert_eq!(values(r#"comm="a\*""#), [literal("a*")]);
        assert_eq!(values(r#"comm="a b*""#), values(r#"comm="a b"*"#));
        let bytes = Value::Text(Pattern::Literal(b"\xff/".into()));
        assert_eq!(values(r#"comm="\xff\x2F""#), [bytes]);
        assert_eq!(values(r"comm=a\b"), [literal("a\\b")]);
        assert_eq!(fault(r#"comm=a,"b c"#).1, "\"b c");
        assert_eq!(fault(r#"comm="\n""#).1, "\\n");
        assert_eq!(fault(r#"comm="\x+1""#).1, "\\x");
        assert_eq!(fault(r#"comm="\xé""#).1, "\\x");
        assert_eq!(fault(r#"comm="\"#).1, "\\");
        assert!(fault(r#"comm="a\x00""#).0.contains("NUL"));
    }

    #[test]
    fn numbers_are_decimal() {
        assert_eq!(values("pid=1,4294967295"), [Value::Number(1), Value::Number(u32::MAX)]);
        assert_eq!(values("uid=0,root"), [Value::Number(0), Value::Name("root".into())]);
        assert_eq!(fault("pid=4294967296").1, "4294967296");
        for text in ["pid=+1", "tree=-1", "mntns=0x1", "pidns=self", "pid=\"\"", "pid=1*"] {
            assert!(fault(text).0.contains("decimal"), "{text}");
        }
        assert_eq!(values("cgroup=id:3"), [Value::CgroupId(3)]);
        assert_eq!(values("cgroup=/a/b"), [Value::CgroupPath("/a/b".into())]);
        for text in ["cgroup=id:", "cgroup=id:x", "cgroup=id:99999999999999999999", "cgroup=\"\""] {
            assert!(terms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nobody_has_the_number_0() {
        for key in ["pid", "tree", "mntns", "pidns"] {
            let rule = format!("comm=a {key}!=7,0");
            let (message, place) = fault(&rule);
            assert!(message.starts_with("no ") && message.contains(" 0"), "{message}");
            assert_eq!(place, "0");
        }
        assert_eq!(fault("cgroup=id:0").1, "id:0");
        assert!(terms("uid=0 gid=0").is_ok());
    }

    #[test]
    fn programs_are_absolute_paths() {
        for text in ["exe=/bin/ls", "exec=/opt/*", "binary=*/ls", "bin=*s", "executable=*"] {
            assert_eq!(terms(text).unwrap().terms[0].key, Key::Exe);
        }
        for text in ["exe=ls", "exe=ls*", "exe=./ls", "exe=\"\"", "exe=host:/bin/ls"] {
            assert!(fault(text).0.contains("absolute"), "{text}");
        }
    }

    #[test]
    fn lengths_are_those_of_the_kernel() {
        let name = "abcdefghijklmnop";
        assert!(terms(&format!("comm={}", &name[..15])).is_ok());
        assert!(terms(&format!("comm={}*", &name[..15])).is_ok());
        let rule = format!("comm={name}");
        let (message, place) = fault(&rule);
        assert!(message.contains("'abcdefghijklmno'"), "{message}");
        assert_eq!(place, name);
        assert!(terms(&format!("comm={name}*")).is_err());
        assert!(terms(&format!("comm=*{name}")).is_err());
        let path = |len: usize| format!("/{}", "x".repeat(len - 1));
        assert!(terms(&format!("exe={}", path(254))).is_ok());
        assert!(terms(&format!("exe={}", path(255))).is_err());
        assert!(terms(&format!("exe={}*", path(255))).is_ok());
        assert!(terms(&format!("exe=*{}", path(255))).is_ok());
        assert!(terms(&format!("exe={}*", path(256))).is_err());
    }

    #[test]
    fn what_was_perhaps_meant_is_said() {
        let hint = |text: &str, hint: &str| {
            let (message, _) = fault(text);
            assert!(message.contains(hint), "{text}: {message}");
        };
        hint("com=a", "did you mean comm?");
        hint("UID=0", "did you mean uid?");
        hint("excutable=/x", "did you mean executable?");
        hint("not-contaner", "did you mean not-container?");
        hint("folow", "did you mean follow?");
        hint("zzz=1", "keys are tree, pid");
        hint("comm=Web Content", "comm=\"a b\"");
        hint("comm = a", "needs a value");
        hint("uid>0", "only = and !=");
        hint("uid!0", "only = and !=");
        hint("comm==a", "one = is enough");
        hint("container=new", "`not-container`");
        hint("!container", "a key is missing");
        hint("comm=a,,b", "a value is missing");
        hint("comm=a, b", "a value is missing");
        hint("comm=", "a value is missing");
        hint("a/b: comm=x", "name of a rule");
    }

    #[test]
    fn words_and_operators() {
        let parsed = terms("container not-container follow uid!=1").unwrap();
        let negated: Vec<_> = parsed.terms.iter().map(|t| (t.key, t.negated)).collect();
        assert_eq!(negated, [(Key::Container, false), (Key::Container, true), (Key::Uid, true)]);
        assert!(parsed.follow);
        assert_eq!(parsed.freq, None);
    }

    #[test]
    fn a_frequency_is_one_number() {
        assert_eq!(terms("comm=a freq=99 follow").unwrap().freq, Some(99));
        for text in ["freq=0", "freq=100001", "freq!=9", "freq=", "freq=a", "freq=9,9", "freq=-1"] {
            let rule = format!("comm=a {text}");
            let (message, place) = fault(&rule);
            assert!(message.contains("1 to 100000"), "{text}: {message}");
            assert_eq!(place, text);
        }
        assert!(fault("comm=a freq").0.contains("freq=99"));
        assert_eq!(fault("comm=a freq=1 freq=2").1, "freq=2");
    }

    /// Text made of the pieces of the grammar, so that most of it gets far.
    fn near_grammar() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            proptest::sample::select(vec![
                "comm",
                "exe",
                "uid",
                "pid",
                "cgroup",
                "container",
                "not-container",
                "follow",
                "freq",
                "=",
                "!=",
                "=",
                ",",
                " ",
                " ",
                "\t",
                "\"",
                "\\",
                "\\x4",
                "*",
                "/",
                "#",
                ":",
                "id:",
                "é",
                "\u{a0}",
                "😀",
                "a",
                "0",
                "7",
                "\0",
            ])
            .prop_map(str::to_owned),
            any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(piece, 0..16).prop_map(|p| p.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn no_text_panics(text in prop_oneof![near_grammar(), any::<String>()]) {
            match Rule::parse(&text, "rule1") {
                Ok(rule) => {
                    for t in &rule.terms {
                        for span in t.values.iter().map(|(_, s)| s).chain([&t.span]) {
                            prop_assert!(rule.text.get(span.at..span.at + span.len).is_some());
                        }
                    }
                    let again = Rule::parse(&rule.text, &rule.name).expect("its own text");
                    prop_assert_eq!(again, rule);
                }
                Err(e) => {
                    prop_assert!(e.text.get(e.span.at..e.span.at + e.span.len).is_some(), "{e:?}");
                    prop_assert!(!e.to_string().is_empty());
                }
            }
        }
    }
}
