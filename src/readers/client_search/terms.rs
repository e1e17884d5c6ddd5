//! Reads a search term: words that must all occur, and quoted phrases.
//!
//! Also how results are ranked: by how often the words occur in a text and how
//! short it is, and by nothing else. A rank that knew how rare a word is among
//! all messages would tell of messages that the searcher may not see, and would
//! move results between two pages.

use std::collections::BTreeSet;

use tantivy::Term;
use tantivy::query::{
    Bm25StatisticsProvider, BooleanQuery, ConstScoreQuery, PhraseQuery, Query, TermQuery,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::tokenizer::Token;

use super::index::Fields;
use crate::readers::words::words;

/// Longest search term in bytes. Ours: longer than anybody types.
const TERM_BYTES_MAX: usize = 2_048;
/// Most words of a search term, characters of scripts without spaces among them.
const TERM_WORDS_MAX: usize = 128;

/// A search term that asks for too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("search term is too long")]
pub struct TermTooLong;

/// A search term, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Each a word, or words that follow one another.
    phrases: Vec<Vec<Token>>,
    /// What clients may mark in results.
    pub highlights: Vec<String>,
}

impl Terms {
    /// What stands between two quotation marks is a phrase, and so is what has
    /// no space in it: `foo-bar` does not find `bar foo`.
    pub fn parse(term: &str) -> Result<Terms, TermTooLong> {
        if term.len() > TERM_BYTES_MAX {
            return Err(TermTooLong);
        }
        let mut phrases = Vec::new();
        let mut highlights = BTreeSet::new();
        // Without a second mark the first one quotes nothing.
        let marks = term.matches('"').count() / 2 * 2;
        for (index, part) in term.splitn(marks + 1, '"').enumerate() {
            let is_quoted = index % 2 == 1;
            let chunks: Vec<&str> = match is_quoted {
                true => vec![part],
                false => part.split_whitespace().collect(),
            };
            for chunk in chunks {
                let words = words(chunk);
                if words.is_empty() {
                    continue;
                }
                phrases.push(words);
                let marked = chunk.split_whitespace();
                let marked =
                    marked.map(|word| word.trim_matches(|c: char| c.is_ascii_punctuation()));
                highlights.extend(
                    marked
                        .filter(|word| !word.is_empty())
                        .map(str::to_lowercase),
                );
            }
        }
        if phrases.iter().map(Vec::len).sum::<usize>() > TERM_WORDS_MAX {
            return Err(TermTooLong);
        }
        phrases.sort_by(|a, b| texts(a).cmp(texts(b)));
        phrases.dedup();
        Ok(Terms {
            phrases,
            highlights: highlights.into_iter().collect(),
        })
    }

    /// Whether nothing is looked for: there is no letter in the term.
    pub fn is_empty(&self) -> bool {
        self.phrases.is_empty()
    }

    /// The query of the index; `rooms` narrows it to some rooms.
    pub fn query(&self, fields: &Fields, rooms: Option<&[u64]>) -> Box<dyn Query> {
        let mut all: Vec<Box<dyn Query>> = self
            .phrases
            .iter()
            .map(|phrase| phrase_query(fields.text, phrase))
            .collect();
        if let Some(rooms) = rooms {
            let rooms = rooms.iter().map(|room| -> Box<dyn Query> {
                let term = Term::from_field_u64(fields.room, *room);
                Box::new(TermQuery::new(term, IndexRecordOption::Basic))
            });
            let any = BooleanQuery::union(rooms.collect());
            all.push(Box::new(ConstScoreQuery::new(Box::new(any), 0.0)));
        }
        Box::new(BooleanQuery::intersection(all))
    }

    /// Whether a text has all that is looked for: what [`Terms::query`] finds.
    #[cfg(test)]
    pub fn matches(&self, text: &str) -> bool {
        let there = words(text);
        let follows = |phrase: &[Token], at: &Token| {
            phrase.iter().all(|word| {
                let position = at.position + word.position - phrase[0].position;
                let mut there = there.iter();
                there.any(|other| other.position == position && other.text == word.text)
            })
        };
        self.phrases
            .iter()
            .all(|phrase| there.iter().any(|at| follows(phrase, at)))
    }
}

fn texts(phrase: &[Token]) -> impl Iterator<Item = &str> {
    phrase.iter().map(|word| word.text.as_str())
}

fn phrase_query(field: Field, phrase: &[Token]) -> Box<dyn Query> {
    let term = |word: &Token| Term::from_field_text(field, &word.text);
    match phrase {
        [word] => Box::new(TermQuery::new(term(word), IndexRecordOption::WithFreqs)),
        words => {
            let words = words.iter().map(|word| (word.position, term(word)));
            Box::new(PhraseQuery::new_with_offset(words.collect()))
        }
    }
}

/// The same for every word: see the top of this file.
pub struct Unranked;

/// Pretended size of the index, and of its texts: messages have some ten words.
const DOCUMENTS: u64 = 1_000_000;
const WORDS_PER_DOCUMENT: u64 = 10;

impl Bm25StatisticsProvider for Unranked {
    fn total_num_tokens(&self, _: Field) -> tantivy::Result<u64> {
        Ok(DOCUMENTS * WORDS_PER_DOCUMENT)
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(DOCUMENTS)
    }

    fn doc_freq(&self, _: &Term) -> tantivy::Result<u64> {
        Ok(DOCUMENTS / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrases(term: &str) -> Vec<String> {
        let terms = Terms::parse(term).unwrap();
        let phrases = terms.phrases.iter();
        phrases
            .map(|phrase| texts(phrase).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn words_and_quoted_phrases_are_read() {
        assert_eq!(phrases("martians and men"), ["and", "martians", "men"]);
        assert_eq!(phrases(r#"a "red car" b"#), ["a", "b", "red car"]);
        assert_eq!(phrases(r#"a "red car"#), ["a", "car", "red"]);
        assert_eq!(phrases(r#""""#), Vec::<String>::new());
        assert_eq!(phrases("foo-bar 東京"), ["foo bar", "東 京"]);
        assert_eq!(phrases("a A a"), ["a"]);
        assert!(Terms::parse("?! \"...\"").unwrap().is_empty());
    }

    #[test]
    fn highlights_are_what_was_typed() {
        let terms = Terms::parse(r#"Foo, "red Car" foo"#).unwrap();
        assert_eq!(terms.highlights, ["car", "foo", "red"]);
    }

    #[test]
    fn terms_are_bounded() {
        assert!(Terms::parse(&"x".repeat(TERM_BYTES_MAX + 1)).is_err());
        assert!(Terms::parse(&"x ".repeat(TERM_WORDS_MAX)).is_ok());
        assert!(Terms::parse(&"x ".repeat(TERM_WORDS_MAX + 1)).is_err());
    }

    #[test]
    fn all_must_occur_and_phrases_in_order() {
        let matches = |term, text| Terms::parse(term).unwrap().matches(text);
        assert!(matches("men martians", "Martians, and men"));
        assert!(!matches("men woman", "martians and men"));
        assert!(matches("\"and men\"", "martians and MEN"));
        assert!(!matches("\"men and\"", "martians and men"));
        assert!(matches("京都", "東京都"));
        assert!(!matches("都京", "東京都"));
    }
}
