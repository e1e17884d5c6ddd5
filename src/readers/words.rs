//! Words of a text as readers look them up, in every script and without knowing
//! its language: case, accents, width and invisible characters make no difference.
//!
//! Scripts that put no spaces between words (Chinese, Japanese, Thai, ...), and
//! Korean, which glues endings to them, give one word for each character: what
//! stands together in a query then is a phrase, and finds every substring.

use std::borrow::Cow;

use tantivy::tokenizer::{AsciiFoldingFilter, TextAnalyzer, Token, TokenStream, Tokenizer};

/// Longest word in characters; what is longer counts by its beginning. Ours:
/// long enough for any word, and keys or noise do not fill the dictionary.
const WORD_CHARS_MAX: usize = 64;

/// Turns text into words; both what is stored and what is asked goes through it.
pub fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(Words)
        .filter(AsciiFoldingFilter)
        .build()
}

/// The words of a text, in order.
pub fn words(text: &str) -> Vec<Token> {
    let mut analyzer = analyzer();
    let mut stream = analyzer.token_stream(text);
    let mut found = Vec::new();
    while let Some(token) = stream.next() {
        found.push(token.clone());
    }
    found
}

/// What a character is to the words around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Part of a word.
    Inside,
    /// A word by itself.
    Single,
    /// Neither seen nor a border.
    Invisible,
    /// A border.
    Between,
    /// A border that no phrase reaches across: the full stops of scripts
    /// without spaces.
    Stop,
}

fn role(c: char) -> Role {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' => Role::Inside,
        '\0'..='\x7f' => Role::Between,
        // Soft hyphen, joiners, variation selectors, byte order mark.
        '\u{ad}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{feff}' => Role::Invisible,
        '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}' => Role::Invisible,
        // Accents that stand behind their letter, vowel points of Hebrew, short
        // vowels and stretching of Arabic.
        '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5bd}' | '\u{5bf}'..='\u{5c7}' => Role::Invisible,
        '\u{640}' | '\u{64b}'..='\u{65f}' | '\u{670}' => Role::Invisible,
        '、' | '。' | '，' | '．' | '！' | '？' | '；' | '：' => Role::Stop,
        c if is_unspaced(c) && c.is_alphanumeric() => Role::Single,
        // Symbols and emoji.
        '\u{2600}'..='\u{27bf}' | '\u{1f000}'..='\u{1faff}' => Role::Single,
        // Signs of Indic scripts belong to their letters, but for full stops.
        '\u{964}' | '\u{965}' | '\u{970}' => Role::Between,
        '\u{900}'..='\u{dff}' => Role::Inside,
        c if c.is_alphanumeric() => Role::Inside,
        _ => Role::Between,
    }
}

/// Whether a script writes its words without spaces between them.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        // Thai, Lao, Tibetan, Burmese.
        '\u{e00}'..='\u{109f}'
        // Hangul letters; Khmer.
        | '\u{1100}'..='\u{11ff}' | '\u{1780}'..='\u{17ff}'
        // Radicals, kana, bopomofo, Hangul letters, Chinese characters.
        | '\u{2e80}'..='\u{a4cf}'
        // Hangul syllables.
        | '\u{ac00}'..='\u{d7ff}'
        | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ffdc}' | '\u{20000}'..='\u{3ffff}')
}

/// Letters of other alphabets whose accents are left out, as the ASCII filter
/// does for Latin ones. `İ` and `ς` are what lower case leaves of them.
fn fold(c: char) -> char {
    match c {
        'ς' => 'σ',
        'ά' => 'α',
        'έ' => 'ε',
        'ή' => 'η',
        'ί' | 'ϊ' | 'ΐ' => 'ι',
        'ό' => 'ο',
        'ύ' | 'ϋ' | 'ΰ' => 'υ',
        'ώ' => 'ω',
        'ё' => 'е',
        'й' => 'и',
        // The full-width forms of ASCII.
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        c => c,
    }
}

/// Puts together what file names of some systems take apart: Hangul syllables
/// from their letters, and kana with their sound marks.
fn compose(text: &str) -> Cow<'_, str> {
    let is_part = |c| matches!(c, '\u{1100}'..='\u{11ff}' | '\u{3099}' | '\u{309a}');
    if !text.contains(is_part) {
        return Cow::Borrowed(text);
    }
    let mut composed = String::with_capacity(text.len());
    for c in text.chars() {
        let whole = composed.chars().next_back().and_then(|last| join(last, c));
        match whole {
            None => composed.push(c),
            Some(whole) => {
                composed.pop();
                composed.push(whole);
            }
        }
    }
    Cow::Owned(composed)
}

/// The one character that two stand for (Unicode, *Hangul Syllable Composition*).
fn join(last: char, c: char) -> Option<char> {
    let (first, second) = (last as u32, c as u32);
    let code = match (last, c) {
        ('\u{1100}'..='\u{1112}', '\u{1161}'..='\u{1175}') => {
            0xac00 + ((first - 0x1100) * 21 + (second - 0x1161)) * 28
        }
        ('\u{ac00}'..='\u{d7a3}', '\u{11a8}'..='\u{11c2}') if (first - 0xac00) % 28 == 0 => {
            first + (second - 0x11a7)
        }
        ('\u{3046}', '\u{3099}') => 0x3094,
        ('\u{30a6}', '\u{3099}') => 0x30f4,
        ('\u{304b}'..='\u{307b}' | '\u{30ab}'..='\u{30db}', '\u{3099}') => first + 1,
        ('\u{306f}'..='\u{307b}' | '\u{30cf}'..='\u{30db}', '\u{309a}') => first + 2,
        _ => return None,
    };
    char::from_u32(code)
}

/// The words before accents of Latin letters are left out.
#[derive(Clone)]
struct Words;

impl Tokenizer for Words {
    type TokenStream<'a> = Found;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Found {
        Found {
            words: split(&compose(text)),
            current: None,
            at: 0,
        }
    }
}

/// All words of one text. Their offsets into it are not told: characters may
/// have been put together before.
struct Found {
    words: Vec<Token>,
    current: Option<Token>,
    at: usize,
}

impl TokenStream for Found {
    fn advance(&mut self) -> bool {
        self.current = self.words.get_mut(self.at).map(std::mem::take);
        self.at += 1;
        self.current.is_some()
    }

    fn token(&self) -> &Token {
        self.current.as_ref().expect("asked for after an advance")
    }

    fn token_mut(&mut self) -> &mut Token {
        self.current.as_mut().expect("asked for after an advance")
    }
}

/// A word on its way, and where the next one stands.
#[derive(Default)]
struct Splitter {
    words: Vec<Token>,
    word: String,
    chars: usize,
    position: usize,
}

impl Splitter {
    fn push(&mut self, c: char) {
        // Letters whose lower case is two, as that of `İ`, leave a mark behind.
        for c in c.to_lowercase().filter(|c| role(*c) != Role::Invisible) {
            if self.chars < WORD_CHARS_MAX {
                self.word.push(fold(c));
                self.chars += 1;
            }
        }
    }

    fn end_word(&mut self) {
        self.chars = 0;
        if self.word.is_empty() {
            return;
        }
        self.words.push(Token {
            position: self.position,
            text: std::mem::take(&mut self.word),
            ..Token::default()
        });
        self.position += 1;
    }
}

fn split(text: &str) -> Vec<Token> {
    let mut splitter = Splitter::default();
    for c in text.chars() {
        let role = role(c);
        match role {
            Role::Inside => splitter.push(c),
            Role::Invisible => {}
            Role::Between => splitter.end_word(),
            Role::Stop => {
                splitter.end_word();
                splitter.position += 1;
            }
            Role::Single => {
                splitter.end_word();
                splitter.push(c);
                splitter.end_word();
            }
        }
    }
    splitter.end_word();
    splitter.words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        words(text).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_end_where_letters_do() {
        assert_eq!(
            texts("Don't e-mail Foo_Bar at 10:30!"),
            ["don", "t", "e", "mail", "foo", "bar", "at", "10", "30"]
        );
        assert!(texts(" \t\n?! ... ").is_empty());
        assert!(texts("").is_empty());
    }

    #[test]
    fn case_accents_and_width_make_no_difference() {
        for (written, plain) in [
            ("CAFÉ", "cafe"),
            ("cafe\u{301}", "cafe"),
            ("Straße", "STRASSE"),
            ("Ὀδός", "Ὀδός"),
            ("ΌΔΟΣ", "οδος"),
            ("İstanbul", "istanbul"),
            ("ЁЛКА", "елка"),
            ("и\u{306}од", "йод"),
            ("Ｆｕｌｌ１", "full1"),
            ("soft\u{ad}hyphen", "softhyphen"),
            ("می\u{200c}خواهم", "میخواهم"),
            ("مُحَمَّد", "محمد"),
            ("שָׁלוֹם", "שלום"),
        ] {
            assert_eq!(texts(written), texts(plain), "{written}");
            assert_eq!(texts(plain).len(), 1, "{plain}");
        }
    }

    #[test]
    fn scripts_without_spaces_give_a_word_for_each_character() {
        assert_eq!(texts("東京tokyo都"), ["東", "京", "tokyo", "都"]);
        assert_eq!(texts("서울에서"), ["서", "울", "에", "서"]);
        assert_eq!(texts("สวัสดี").len(), "สวสด".chars().count() + 2);
        assert_eq!(texts("🎉👍🏽"), ["🎉", "👍"]);
        // A phrase does not reach across a full stop.
        let positions: Vec<_> = words("東。京").iter().map(|word| word.position).collect();
        assert_eq!(positions, [0, 2]);
    }

    #[test]
    fn characters_that_were_taken_apart_are_put_together() {
        assert_eq!(texts("\u{1112}\u{1161}\u{11ab}"), ["한"]);
        assert_eq!(texts("か\u{3099}ハ\u{309a}"), ["が", "パ"]);
        assert_eq!(texts("नमस्ते दुनिया"), ["नमस्ते", "दुनिया"]);
    }

    #[test]
    fn long_words_count_by_their_beginning() {
        let long = "x".repeat(10_000);
        assert_eq!(texts(&long), ["x".repeat(WORD_CHARS_MAX)]);
        assert_eq!(
            texts(&format!("{long} y")),
            ["x".repeat(WORD_CHARS_MAX), "y".into()]
        );
    }
}
