//! From a key to its slot: the hash of PostgreSQL's own `PARTITION BY HASH`.
//!
//! The proxy, hash-partitioned leaves and a publication's row filter must agree about where a row lives, so this is
//! PostgreSQL's extended hash (Bob Jenkins' lookup3 as in `src/common/hashfn.c`) under the seed of hash partitioning
//! (`HASH_PARTITION_SEED`), and its `hash_combine64`. All arithmetic wraps, as it does in C on unsigned numbers.
//! The server can be asked for the same numbers: see [`self_test_sql`].

use crate::id::Slot;
use crate::shard::map::{KeyType, SLOTS};

/// PostgreSQL's `HASH_PARTITION_SEED`.
pub const SEED: u64 = 0x7A5B_2236_7996_DCFD;

/// What `hash_combine64` adds to every column's hash.
const COMBINE: u64 = 0x49a0_f4dd_15e5_a8e3;

/// The hash of a smallint, integer or bigint: `hashint8extended` under [`SEED`]. The three widths agree on equal values.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the halves of the number are what is hashed"
)]
pub fn hash_integer(value: i64) -> u64 {
    let low = value as u32;
    let high = (value >> 32) as u32;
    hash_u32(low ^ if value >= 0 { high } else { !high })
}

/// The hash of a text or varchar in the server's encoding (`hashtextextended`, deterministic collations) or of the 16
/// bytes of a uuid (`uuid_hash_extended`), under [`SEED`].
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    // The length is mixed in as 32 bits, as in C.
    #[allow(clippy::cast_possible_truncation, reason = "a message is far shorter than 4 GiB")]
    let mut state = State::new(bytes.len() as u32);
    let (chunks, tail) = bytes.as_chunks::<12>();
    for [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] in chunks {
        state.a = state.a.wrapping_add(u32::from_le_bytes([*a0, *a1, *a2, *a3]));
        state.b = state.b.wrapping_add(u32::from_le_bytes([*b0, *b1, *b2, *b3]));
        state.c = state.c.wrapping_add(u32::from_le_bytes([*c0, *c1, *c2, *c3]));
        state.mix();
    }
    let mut words = tail.chunks(4).map(little_endian);
    state.a = state.a.wrapping_add(words.next().unwrap_or(0));
    state.b = state.b.wrapping_add(words.next().unwrap_or(0));
    // The lowest byte of c is left to the length.
    state.c = state.c.wrapping_add(words.next().unwrap_or(0).wrapping_shl(8));
    state.finish()
}

/// The part of a text key that is hashed where the table says `tag = true`: what stands between the first `{` and the first `}` behind it,
/// as in Redis Cluster (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags>); all of it where nothing
/// stands there, or no such braces. No character of UTF-8 has the byte of a brace within it.
#[must_use]
pub fn tag(text: &[u8]) -> &[u8] {
    let mut parts = text.splitn(2, |byte| *byte == b'{').skip(1);
    let inner = parts.next().and_then(|rest| rest.get(..rest.iter().position(|byte| *byte == b'}')?));
    inner.filter(|inner| !inner.is_empty()).unwrap_or(text)
}

/// The row hash after one more key column (`hash_combine64`); a row's hash starts at 0 and takes its key columns in order.
#[must_use]
pub fn combine(row: u64, column: u64) -> u64 {
    row ^ column.wrapping_add(COMBINE).wrapping_add(row.wrapping_shl(54)).wrapping_add(row.wrapping_shr(7))
}

/// The slot of a key column's hash, for tables with one key column.
#[must_use]
pub fn slot_of(hash: u64) -> Slot {
    slot_of_row(combine(0, hash))
}

/// The slot of a row hash made by [`combine`]: its remainder by the number of slots.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the remainder is less than SLOTS, a u16")]
pub fn slot_of_row(row: u64) -> Slot {
    Slot((row % u64::from(SLOTS)) as u16)
}

/// Up to four bytes as a little-endian number.
fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number: u32, byte| number.wrapping_shl(8) | u32::from(*byte))
}

/// `hash_uint32_extended` under [`SEED`].
fn hash_u32(value: u32) -> u64 {
    let mut state = State::new(4);
    state.a = state.a.wrapping_add(value);
    state.finish()
}

/// The three words that lookup3 stirs.
struct State {
    a: u32,
    b: u32,
    c: u32,
}

impl State {
    /// The state before the first byte of a key of `length` bytes, the seed already mixed in.
    #[allow(clippy::cast_possible_truncation, reason = "the halves of the seed are what is mixed in")]
    fn new(length: u32) -> Self {
        let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
        let mut state =
            Self { a: start.wrapping_add(SEED.wrapping_shr(32) as u32), b: start.wrapping_add(SEED as u32), c: start };
        state.mix();
        state
    }

    /// lookup3's `mix`.
    fn mix(&mut self) {
        fn step(x: &mut u32, y: &mut u32, z: u32, bits: u32) {
            *x = x.wrapping_sub(*y) ^ y.rotate_left(bits);
            *y = y.wrapping_add(z);
        }
        let Self { a, b, c } = self;
        step(a, c, *b, 4);
        step(b, a, *c, 6);
        step(c, b, *a, 8);
        step(a, c, *b, 16);
        step(b, a, *c, 19);
        step(c, b, *a, 4);
    }

    /// lookup3's `final`: b and c are the hash.
    fn finish(self) -> u64 {
        fn step(x: u32, y: u32, bits: u32) -> u32 {
            (x ^ y).wrapping_sub(y.rotate_left(bits))
        }
        let Self { a, b, c } = self;
        let c = step(c, b, 14);
        let a = step(a, c, 11);
        let b = step(b, a, 25);
        let c = step(c, b, 16);
        let a = step(a, c, 4);
        let b = step(b, a, 14);
        let c = step(c, b, 24);
        u64::from(b).wrapping_shl(32) | u64::from(c)
    }
}

/// Integers that the self-test asks the server to hash; those that a narrow column cannot hold are left out for it.
const PROBE_INTEGERS: &[i64] = &[
    0,
    1,
    -1,
    42,
    -42,
    32_767,
    -32_768,
    65_536,
    2_147_483_647,
    -2_147_483_648,
    2_147_483_648,
    4_294_967_297,
    1_234_567_890_123_456_789,
    i64::MAX,
    i64::MIN,
];

/// Texts for the self-test, around the chunk size of 12 bytes. Those beyond ASCII are for servers whose encoding is UTF-8.
const PROBE_TEXTS: &[&str] = &[
    "",
    "a",
    "ab",
    "abc",
    "abcd",
    "abcdefgh",
    "abcdefghijk",
    "abcdefghijkl",
    "abcdefghijklm",
    "user:1000",
    "żółć",
    "😀",
];

/// Uuids for the self-test.
const PROBE_UUIDS: &[u128] =
    &[0, 1, u128::MAX, 0x550e_8400_e29b_41d4_a716_4466_5544_0000, 0xdead_beef_dead_beef_dead_beef_dead_beef];

/// The integers of [`PROBE_INTEGERS`] that a column of `width` bytes holds.
fn probe_integers(width: u8) -> impl Iterator<Item = i64> {
    let bits = u32::from(width.clamp(1, 8)).wrapping_mul(8);
    let shift = 64_u32.wrapping_sub(bits);
    PROBE_INTEGERS.iter().copied().filter(move |v| v.wrapping_shl(shift).wrapping_shr(shift) == *v)
}

/// The texts of [`PROBE_TEXTS`] that a server of any encoding has, or all.
fn probe_texts(utf8: bool) -> impl Iterator<Item = &'static str> {
    PROBE_TEXTS.iter().copied().filter(move |v| utf8 || v.is_ascii())
}

/// A query that lets the server hash the probe values with its own functions: one row a probe, in the order of
/// [`self_test_expected`], of one bigint column. A server whose answer differs must not be used as a shard of such keys.
/// `utf8`: the server's encoding is UTF-8, else texts beyond ASCII are left out.
#[must_use]
pub fn self_test_sql(key_type: KeyType, utf8: bool) -> String {
    let (function, values): (&str, Vec<String>) = match key_type {
        KeyType::Integer { width } => {
            let (function, name) = match width {
                2 => ("hashint2extended", "int2"),
                4 => ("hashint4extended", "int4"),
                _ => ("hashint8extended", "int8"),
            };
            (function, probe_integers(width).map(|v| format!("'{v}'::pg_catalog.{name}")).collect())
        }
        KeyType::Text | KeyType::Tagged => {
            ("hashtextextended", probe_texts(utf8).map(|v| format!("'{v}'::pg_catalog.text")).collect())
        }
        KeyType::Uuid => {
            ("uuid_hash_extended", PROBE_UUIDS.iter().map(|v| format!("'{v:032x}'::pg_catalog.uuid")).collect())
        }
    };
    let rows: Vec<String> = values.iter().enumerate().map(|(n, v)| format!("({n}, {v})")).collect();
    format!(
        "SELECT pg_catalog.{function}(probe.v, {SEED}) FROM (VALUES {}) AS probe(n, v) ORDER BY probe.n",
        rows.join(", ")
    )
}

/// What the server must answer to [`self_test_sql`] of the same arguments: the hashes as PostgreSQL's signed bigint.
#[must_use]
pub fn self_test_expected(key_type: KeyType, utf8: bool) -> Vec<i64> {
    match key_type {
        KeyType::Integer { width } => probe_integers(width).map(|v| hash_integer(v).cast_signed()).collect(),
        KeyType::Text | KeyType::Tagged => probe_texts(utf8).map(|v| hash_bytes(v.as_bytes()).cast_signed()).collect(),
        KeyType::Uuid => PROBE_UUIDS.iter().map(|v| hash_bytes(&v.to_be_bytes()).cast_signed()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes and slots taken from PostgreSQL 15.
    const INTEGERS: &[(i64, u64, u16)] = &[
        (0, 0xc2e3_4bda_39f0_f0cd, 6576),
        (1, 0x52d6_2105_8124_e6d5, 4024),
        (2, 0xa1da_1e66_9978_f897, 8570),
        (42, 0x6632_18bc_fb84_b17f, 6754),
        (100, 0xa0c3_2bd4_7a3f_e976, 4697),
        (1000, 0x34ee_30c3_bb29_ccf1, 13780),
        (65_535, 0x1635_3c21_a74b_62ab, 2958),
        (65_536, 0xa4c9_d2b4_b3f7_b1a1, 6788),
        (123_456_789, 0xf331_1fb2_440a_2aea, 5069),
        (2_147_483_647, 0xac09_237e_4899_f89c, 8575),
        (-1, 0xba5f_c748_0956_06c2, 12197),
        (-42, 0x5c6f_545b_0b7c_b85f, 8514),
        (-2_147_483_648, 0x4489_3a0f_1e94_9193, 14966),
        (4_294_967_295, 0xba5f_c748_0956_06c2, 12197),
        (4_294_967_296, 0x52d6_2105_8124_e6d5, 4024),
        (4_294_967_297, 0xc2e3_4bda_39f0_f0cd, 6576),
        (-4_294_967_296, 0xc2e3_4bda_39f0_f0cd, 6576),
        (2_147_483_648, 0x4489_3a0f_1e94_9193, 14966),
        (-2_147_483_649, 0xac09_237e_4899_f89c, 8575),
        (1_234_567_890_123_456_789, 0x81a3_be9c_9985_a7ad, 4240),
        (i64::MAX, 0x4489_3a0f_1e94_9193, 14966),
        (i64::MIN, 0xac09_237e_4899_f89c, 8575),
    ];

    const TEXTS: &[(&str, u64, u16)] = &[
        ("", 0xb0e3_3d0b_543f_bfc3, 10406),
        ("a", 0xa2f2_40f8_823b_a67b, 3934),
        ("ab", 0x0845_730e_49ba_f33d, 7200),
        ("abc", 0x325c_02d1_6f43_e1c2, 2725),
        ("abcd", 0x37eb_4043_f6fd_b06e, 6481),
        ("abcdefgh", 0x9461_9c57_3ca2_12b2, 15253),
        ("abcdefghijk", 0xe399_99ed_ea56_2278, 2907),
        ("abcdefghijkl", 0x92b0_03d3_7055_4786, 12393),
        ("abcdefghijklm", 0xa1d4_2895_caa7_86b3, 12182),
        ("user:1000", 0xbd5f_6bcb_eb5c_d5b1, 16020),
        ("{user1000}.following", 0xc766_7d47_ef6b_50c1, 14756),
        ("żółć", 0x3a5a_2e5c_b845_af53, 6198),
        ("😀", 0x0262_b326_1273_c08e, 10609),
        ("The quick brown fox jumps over the lazy dog", 0x5177_37d4_37d6_50e6, 14793),
    ];

    const UUIDS: &[(u128, u64, u16)] = &[
        (0, 0xb6b5_d3c4_aa5d_92c2, 15269),
        (1, 0x4902_7b8a_0954_e54a, 3629),
        (u128::MAX, 0xfdee_b199_9c98_549e, 15745),
        (0x123e_4567_e89b_12d3_a456_4266_1417_4000, 0xee9f_87f3_44f2_caa2, 13189),
        (0x550e_8400_e29b_41d4_a716_4466_5544_0000, 0xcfdf_92ea_773f_fce6, 9673),
        (0x6ba7_b810_9dad_11d1_80b4_00c0_4fd4_30c8, 0xe2d8_106b_9773_f303, 7142),
        (0xf47a_c10b_58cc_4372_a567_0e02_b2c3_d479, 0x6ce2_57e9_05c7_b887, 8554),
        (0x0189_0a5d_ac96_774b_bcce_b302_099a_8057, 0x3ffa_5ced_18d1_636d, 3152),
        (0xdead_beef_dead_beef_dead_beef_dead_beef, 0xc51a_7ea1_c31a_acd9, 5564),
    ];

    #[test]
    fn integers_hash_as_in_postgresql() {
        for (value, hash, slot) in INTEGERS {
            assert_eq!((hash_integer(*value), slot_of(*hash)), (*hash, Slot(*slot)), "{value}");
        }
    }

    #[test]
    fn texts_hash_as_in_postgresql() {
        for (value, hash, slot) in TEXTS {
            assert_eq!((hash_bytes(value.as_bytes()), slot_of(*hash)), (*hash, Slot(*slot)), "{value}");
        }
    }

    #[test]
    fn uuids_hash_as_in_postgresql() {
        for (value, hash, slot) in UUIDS {
            assert_eq!((hash_bytes(&value.to_be_bytes()), slot_of(*hash)), (*hash, Slot(*slot)), "{value:032x}");
        }
    }

    #[test]
    fn a_tag_is_what_the_first_braces_hold() {
        for (text, part) in [
            ("{user1000}.following", "user1000"),
            ("{user1000}.followers", "user1000"),
            ("cart:{7}", "7"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("}a{b}", "b"),
            ("a}b", "a}b"),
            ("a{b", "a{b"),
            ("a}b{c", "a}b{c"),
            ("{", "{"),
            ("{}", "{}"),
            ("", ""),
            ("żó{łć}😀", "łć"),
            ("{\n}", "\n"),
        ] {
            assert_eq!(tag(text.as_bytes()), part.as_bytes(), "{text}");
        }
    }

    /// The form that a publication's row filter uses.
    #[test]
    fn slot_agrees_with_the_row_filter() {
        for (_, hash, slot) in INTEGERS {
            assert_eq!(u64::from(*slot), ((hash & 16383) + 10467) & 16383);
        }
    }

    #[test]
    fn the_seed_is_the_number_in_the_sql() {
        assert_eq!(SEED, 8_816_678_312_871_386_365);
        assert!(self_test_sql(KeyType::Uuid, true).contains(", 8816678312871386365)"));
    }

    #[test]
    fn self_test_asks_for_as_many_rows_as_it_expects() {
        for (key_type, function, probes) in [
            (KeyType::Integer { width: 2 }, "hashint2extended", 7),
            (KeyType::Integer { width: 4 }, "hashint4extended", 10),
            (KeyType::Integer { width: 8 }, "hashint8extended", 15),
            (KeyType::Text, "hashtextextended", 12),
            (KeyType::Uuid, "uuid_hash_extended", 5),
        ] {
            let sql = self_test_sql(key_type, true);
            assert!(sql.contains(function), "{sql}");
            assert_eq!(sql.matches("::pg_catalog.").count(), probes, "{sql}");
            assert_eq!(self_test_expected(key_type, true).len(), probes);
        }
    }
}
