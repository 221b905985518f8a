//! Which partition a key belongs to: Kafka's default, equal byte for byte to the Java client's, so that topics written
//! here join with topics written there.

/// The hash of a key that decides its partition: `hash(key) % partitions`. Records without a key have no partition of
/// their own: where they go is the writer's choice.
pub fn hash(key: &[u8]) -> u32 {
    murmur2(key) & 0x7fff_ffff
}

/// The partition of a record with this key in a topic of `partitions` partitions.
pub fn partition(key: &[u8], partitions: u32) -> u32 {
    hash(key).checked_rem(partitions).unwrap_or(0)
}

/// The 32-bit murmur2 hash as Kafka's `Utils.murmur2` computes it.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_the_java_client_does() {
        let published: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in published {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn a_negative_hash_loses_its_sign_bit() {
        let hash = murmur2(b"21");
        assert!((hash as i32) < 0);
        assert_eq!(partition(b"21", 1 << 31), hash & 0x7fff_ffff);
        assert_eq!(partition(b"21", 7), (hash & 0x7fff_ffff) % 7);
        assert_eq!(partition(b"21", 1), 0);
    }
}
