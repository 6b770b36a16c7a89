//! Whatever text a client sends: no panic, no crash in the parser, no hang, and never less caution than the rules ask for.
//!
//! CVE class: a peer's bytes that make it panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::sql::cache::FactsCache;
use pgweir::sql::facts::{Access, QueryFacts, SessionEffect, ShardShape};

fuzz_target!(|text: &[u8]| {
    let mut cache = FactsCache::new(4, 1 << 16);
    let facts = cache.get(text);
    assert_eq!(*cache.get(text), *facts);

    // The normal form, which is SQL itself, says the same but for the values.
    let mut normal = Vec::new();
    if pgweir::sql::normal::of(text, &mut normal) {
        let valueless = |mut facts: QueryFacts| {
            facts.drop_values();
            facts.unparsed = facts.unparsed.map(|_| (String::new(), None));
            facts
        };
        let of_normal = pgweir::sql::parse::facts(&normal);
        assert_eq!(valueless(of_normal), valueless((*facts).clone()), "{}", String::from_utf8_lossy(&normal));
    }

    if let Some((message, _)) = &facts.unparsed {
        assert_eq!(facts.access(), Access::Write);
        assert!(facts.statements.is_empty());
        // The facade's last resort: a panic that it caught is still a finding.
        assert_ne!(message, "the parser failed on this text");
    }
    for statement in &facts.statements {
        let pins = statement.effects.iter().any(|e| matches!(e, SessionEffect::Pin(_)));
        assert!(!pins || statement.access == Access::Write);
        match &statement.shape {
            ShardShape::Filtered { tables, top, nested, .. } => {
                assert!(!tables.is_empty());
                assert!(top.iter().all(|t| tables.contains(t)));
                assert_eq!(nested.is_none(), top.len() == tables.len());
            }
            ShardShape::Insert { tables, .. } => assert!(!tables.is_empty()),
            ShardShape::NoTables | ShardShape::Other { .. } => {}
        }
    }
});
