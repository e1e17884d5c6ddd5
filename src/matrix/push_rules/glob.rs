//! Globs of push rules (appendices, *Glob-style matching*): `*` matches any
//! characters, `?` one, and case makes no difference.
//!
//! A pattern is an automaton whose states are bits of a few words, so that a text
//! is read once, whatever the pattern: no pattern is slow (CVE-2021-29471).

use std::cell::Cell;

/// States in a word.
const WORD_BITS: usize = 64;

/// Characters times words that judging one event by one set of rules may take:
/// some 20 ms. Patterns that come behind match nothing. Ours: 10,000 rules about
/// words get through with 1,600 characters of text.
const STEPS_MAX: u64 = 16_000_000;

/// What is left of [`STEPS_MAX`].
pub struct Effort(Cell<u64>);

impl Default for Effort {
    fn default() -> Effort {
        Effort(Cell::new(STEPS_MAX))
    }
}

impl Effort {
    /// Whether so many steps are left, which are then taken.
    fn take(&self, steps: u64) -> bool {
        let left = self.0.get().checked_sub(steps);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }
}

/// A pattern that is matched against a whole text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// Without wildcards, folded.
    Plain(Box<str>),
    Glob(Automaton),
}

impl Pattern {
    pub fn new(pattern: &str) -> Pattern {
        match pattern.contains(['*', '?']) {
            true => Pattern::Glob(Automaton::new(tokens(pattern))),
            false => Pattern::Plain(pattern.chars().map(fold).collect()),
        }
    }

    pub fn matches(&self, text: &str, effort: &Effort) -> bool {
        match self {
            Pattern::Plain(pattern) => text.chars().map(fold).eq(pattern.chars()),
            Pattern::Glob(glob) => glob.matches(text, effort),
        }
    }
}

/// A pattern that is matched against words: against any part of a text that
/// starts and ends at a word boundary (client-server API, *Conditions*).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Words(Automaton);

impl Words {
    pub fn new(pattern: &str) -> Words {
        Words(Automaton::new(tokens(pattern)))
    }

    /// Words in which `*` and `?` are themselves.
    pub fn plain(words: &str) -> Words {
        Words(Automaton::new(
            words.chars().map(|one| Token::One(fold(one))),
        ))
    }

    /// An empty pattern names no word, and matches nothing.
    pub fn matches(&self, text: &str, effort: &Effort) -> bool {
        self.0.matches_words(text, effort)
    }
}

/// One character in lower case, if that is one.
fn fold(one: char) -> char {
    let mut lower = one.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(lower), None) => lower,
        _ => one,
    }
}

fn is_word(one: char) -> bool {
    one.is_ascii_alphanumeric() || one == '_'
}

#[derive(Clone, Copy)]
enum Token {
    One(char),
    AnyOne,
    AnyMany,
}

fn tokens(pattern: &str) -> impl Iterator<Item = Token> {
    pattern.chars().map(|one| match one {
        '*' => Token::AnyMany,
        '?' => Token::AnyOne,
        one => Token::One(fold(one)),
    })
}

/// State `n` means that `n` characters of the pattern are matched. A `*` lets
/// the state before it stay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Automaton {
    /// Of all matched: the last state.
    end: usize,
    /// States that the character lets go on, by character, in its order.
    on: Box<[(char, Box<[u64]>)]>,
    /// States that any character lets go on.
    on_any: Box<[u64]>,
    stay: Box<[u64]>,
}

fn set(words: &mut [u64], bit: usize) {
    if let Some(word) = words.get_mut(bit / WORD_BITS) {
        *word |= 1 << (bit % WORD_BITS);
    }
}

fn has(words: &[u64], bit: usize) -> bool {
    let word = words.get(bit / WORD_BITS).copied().unwrap_or(0);
    word >> (bit % WORD_BITS) & 1 == 1
}

impl Automaton {
    fn new(tokens: impl Iterator<Item = Token>) -> Automaton {
        let tokens: Vec<Token> = tokens.collect();
        let is_one = |token: &&Token| !matches!(token, Token::AnyMany);
        let end = tokens.iter().filter(is_one).count();
        let none = vec![0_u64; end / WORD_BITS + 1].into_boxed_slice();
        let mut on: Vec<(char, Box<[u64]>)> = Vec::new();
        let (mut on_any, mut stay) = (none.clone(), none.clone());
        let mut state = 0;
        for token in tokens {
            match token {
                Token::AnyMany => {
                    set(&mut stay, state);
                    continue;
                }
                Token::AnyOne => set(&mut on_any, state),
                Token::One(one) => {
                    let at = match on.binary_search_by_key(&one, |(known, _)| *known) {
                        Ok(at) => at,
                        Err(at) => {
                            on.insert(at, (one, none.clone()));
                            at
                        }
                    };
                    if let Some((_, states)) = on.get_mut(at) {
                        set(states, state);
                    }
                }
            }
            state += 1;
        }
        Automaton {
            end,
            on: on.into(),
            on_any,
            stay,
        }
    }

    /// No state at all.
    fn nowhere(&self) -> Vec<u64> {
        vec![0; self.stay.len()]
    }

    /// Reads a character; whether any state is left.
    fn read(&self, states: &mut [u64], one: char) -> bool {
        let known = self
            .on
            .binary_search_by_key(&fold(one), |(known, _)| *known);
        let on = known.ok().and_then(|at| self.on.get(at)).map(|(_, on)| on);
        let mut carry = 0;
        let mut left = 0;
        for (index, states) in states.iter_mut().enumerate() {
            let of = |words: &[u64]| words.get(index).copied().unwrap_or(0);
            let going = *states & (of(&self.on_any) | on.map_or(0, |on| of(on)));
            *states = (going << 1) | carry | (*states & of(&self.stay));
            carry = going >> (WORD_BITS - 1);
            left |= *states;
        }
        left != 0
    }

    fn steps(&self, text: &str) -> u64 {
        (text.len() * self.stay.len()) as u64
    }

    fn matches(&self, text: &str, effort: &Effort) -> bool {
        if !effort.take(self.steps(text)) {
            return false;
        }
        let mut states = self.nowhere();
        set(&mut states, 0);
        text.chars().all(|one| self.read(&mut states, one)) && has(&states, self.end)
    }

    fn matches_words(&self, text: &str, effort: &Effort) -> bool {
        let is_empty = self.end == 0 && !has(&self.stay, 0);
        if is_empty || !effort.take(self.steps(text)) {
            return false;
        }
        let mut states = self.nowhere();
        let mut before = None;
        for one in text.chars() {
            if before.is_none_or(|before| !is_word(before)) || !is_word(one) {
                // A part may end here, and another begin.
                set(&mut states, 0);
                if has(&states, self.end) {
                    return true;
                }
            }
            self.read(&mut states, one);
            before = Some(one);
        }
        has(&states, self.end) || (self.end == 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).matches(text, &Effort::default())
    }

    fn words(pattern: &str, text: &str) -> bool {
        Words::new(pattern).matches(text, &Effort::default())
    }

    /// The examples of the specification, *Conditions*.
    #[test]
    fn whole_texts_match() {
        for (pattern, text, expected) in [
            ("lunc?*", "Lunch plans", true),
            ("lunc?*", "LUNCH", true),
            ("lunc?*", " lunch", false),
            ("lunc?*", "lunc", false),
            ("", "", true),
            ("", "x", false),
            ("*", "", true),
            ("m.room.*", "m.room.message", true),
            ("ÄRGER", "ärger", true),
            ("@a.b:hs", "@axb:hs", false),
        ] {
            assert_eq!(whole(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn words_match_at_their_boundaries() {
        for (pattern, text, expected) in [
            ("ex*ple", "An example event.", true),
            ("ex*ple", "exple", true),
            ("ex*ple", "An exciting triple-whammy", true),
            ("ex*ple", "An exampled event", false),
            ("cake", "cake", true),
            ("cake", "a CAKE!", true),
            ("cake", "cakes", false),
            ("cake", "cheesecake", false),
            ("cake", "cake_walk", false),
            ("cake", "cake, really", true),
            ("cake", "pancake cake", true),
            ("cake*lie", "the cake is a lie", true),
            ("cake*lie", "the cake is a lies", false),
            ("ca?e", "the cafe", true),
            ("日本", "a 日本 b", true),
            ("@room", "hey @room!", true),
            ("", "anything", false),
            ("*", "", true),
        ] {
            assert_eq!(words(pattern, text), expected, "{pattern} {text}");
        }
        assert!(Words::plain("*a*").matches("I am *A*.", &Effort::default()));
        assert!(!Words::plain("*a*").matches("I am a", &Effort::default()));
    }

    #[test]
    fn cve_2021_29471_hostile_patterns_cost_no_more_than_others() {
        let pattern = format!("{}b", "a*?".repeat(300));
        let text = "a".repeat(65_000);
        let effort = Effort::default();
        assert!(!Words::new(&pattern).matches(&text, &effort));
        let taken = STEPS_MAX - effort.0.get();
        assert!(taken <= 65_000 * 10, "{taken}");
        // Many of them end when the effort does.
        let spent = (0..100).filter(|_| !effort.take(taken)).count();
        assert!(spent > 0);
    }

    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
            Some((first, rest)) => {
                let fits = |one: &char| *first == '?' || first.eq_ignore_ascii_case(one);
                text.first().is_some_and(fits) && slow(rest, &text[1..])
            }
        }
    }

    fn slow_words(pattern: &[char], text: &[char]) -> bool {
        let inside = |at: usize| at > 0 && at < text.len();
        let boundary = |at: usize| !inside(at) || !is_word(text[at - 1]) || !is_word(text[at]);
        let parts = (0..=text.len()).flat_map(|from| (from..=text.len()).map(move |to| (from, to)));
        !pattern.is_empty()
            && parts
                .filter(|(from, to)| boundary(*from) && boundary(*to))
                .any(|(from, to)| slow(pattern, &text[from..to]))
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[aB ?*]{0,7}", text in "[ab -]{0,8}") {
            let chars: (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(whole(&pattern, &text), slow(&chars.0, &chars.1));
            prop_assert_eq!(words(&pattern, &text), slow_words(&chars.0, &chars.1));
        }

        #[test]
        fn long_patterns_cross_words_of_bits(prefix in 55_usize..75, text in "[ab]{0,6}") {
            let pattern = format!("{}a?b*", "x".repeat(prefix));
            let text = format!("{}{text}", "x".repeat(prefix));
            let chars: (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(whole(&pattern, &text), slow(&chars.0, &chars.1));
        }
    }
}
