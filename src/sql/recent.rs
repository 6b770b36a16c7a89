//! The texts that came last, each beside its facts, to be recognised by comparing bytes: no hash of the whole is made, and no normal form.
//! What differs from one of them in nothing but the values of numbers is recognised too.
//!
//! A few places, and a text has one of them by how it begins. Two that want the same take turns with it; that costs what the full way costs.

use std::ops::Range;
use std::sync::Arc;

use super::facts::QueryFacts;
use super::normal;

/// How many places there are; a power of two.
const PLACES: usize = 256;
/// By so many bytes, or those before its first digit, a text is given its place.
const BEGINNING: usize = 32;
/// Longer texts, in bytes, are not kept here.
const LONGEST: usize = 2048;
/// After so many times a text is to be looked up in full once, so that it counts there as one that comes.
const UNSEEN: u8 = 100;
/// How often others must come in vain until they get the place of a text that came often.
const MOST_FAVOUR: u8 = 8;

/// The texts.
pub(super) struct Recent(Box<[Option<Known>]>);

struct Known {
    text: Box<[u8]>,
    /// Where numbers stand that may be others.
    numbers: Box<[Range<usize>]>,
    facts: Arc<QueryFacts>,
    /// Times that it was found here since it was last looked up in full.
    unseen: u8,
    favour: u8,
}

impl Default for Recent {
    fn default() -> Self {
        Self((0..PLACES).map(|_| None).collect())
    }
}

impl Recent {
    /// The facts of a text that is like one that is kept.
    pub(super) fn get(&mut self, text: &[u8]) -> Option<Arc<QueryFacts>> {
        let known = self.0.get_mut(place(text))?.as_mut()?;
        if !normal::is_alike(text, &known.text, &known.numbers) {
            known.favour = known.favour.saturating_sub(1);
            return None;
        }
        known.favour = known.favour.saturating_add(1).min(MOST_FAVOUR);
        known.unseen = known.unseen.saturating_add(1);
        if known.unseen > UNSEEN {
            known.unseen = 0;
            return None;
        }
        Some(Arc::clone(&known.facts))
    }

    /// Keeps a text that was looked up in full, unless the place is that of one that comes more often. `numbers`: see
    /// [`normal::of_with_numbers`]; the facts are then those of its normal form.
    pub(super) fn put(&mut self, text: &[u8], numbers: &[Range<usize>], facts: &Arc<QueryFacts>) {
        let Some(kept) = self.0.get_mut(place(text)) else { return };
        let taken = kept.as_ref().is_some_and(|known| known.favour > 0);
        if !taken && text.len() <= LONGEST {
            let facts = Arc::clone(facts);
            *kept = Some(Known { text: text.into(), numbers: numbers.into(), facts, unseen: 0, favour: 1 });
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.fill_with(|| None);
    }
}

/// Who makes many texts share a place makes them slow, no more: so a simple mixture does.
fn place(text: &[u8]) -> usize {
    let mut mixed = 0_u64;
    let beginning = text.get(..BEGINNING).unwrap_or(text);
    // Behind a number, texts that are alike stand at other places.
    let same = beginning.iter().position(u8::is_ascii_digit).unwrap_or(beginning.len());
    for word in beginning.get(..same).unwrap_or_default().chunks(8) {
        let mut bytes = [0; 8];
        bytes.iter_mut().zip(word).for_each(|(to, from)| *to = *from);
        mixed = (mixed.rotate_left(5) ^ u64::from_le_bytes(bytes)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    // The upper bits are the well mixed ones.
    (mixed >> 40) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_whatever_its_numbers_and_keeps_its_place_while_it_comes() {
        let mut recent = Recent::default();
        let facts = Arc::new(QueryFacts::default());
        let text = b"SELECT a FROM t WHERE k = 12 AND l < 3";
        recent.put(text, &[26..28, 37..38], &facts);
        let mut found = |text: &str| recent.get(text.as_bytes()).is_some();
        assert!(found("SELECT a FROM t WHERE k = 7 AND l < 345"));
        for other in ["SELECT a FROM t WHERE k = 12 AND l < 3 ", "SELECT a FROM t WHERE k = AND l < 3", "SELECT 12"] {
            assert!(!found(other), "{other}");
        }
        assert!(!found("SELECT a FROM t WHERE k = 1234567890 AND l < 3"), "that is no int4");
        (0..UNSEEN - 1).for_each(|_| assert!(found("SELECT a FROM t WHERE k = 1 AND l < 2")));
        assert!(!found("SELECT a FROM t WHERE k = 1 AND l < 2"), "it is to be looked up in full");
        assert!(found("SELECT a FROM t WHERE k = 1 AND l < 2"));
        // It begins alike.
        let other = b"SELECT a FROM t WHERE k = 12 AND l <> 3";
        assert_eq!(place(text), place(other));
        recent.put(other, &[], &facts);
        assert!(recent.get(other).is_none(), "another comes more often");
        (0..MOST_FAVOUR).for_each(|_| assert!(recent.get(other).is_none()));
        recent.put(other, &[], &facts);
        assert!(recent.get(other).is_some());
        recent.clear();
        assert!(recent.get(other).is_none());
    }
}
