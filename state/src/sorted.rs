//! What is left of the records of a changelog when they are in the order of their keys.

/// The last record of each key, sorted by key. Keys are compared eight bytes at a time, behind what all of them begin with:
/// the records themselves lie far apart in memory.
pub(crate) fn last_of_each_key<'r>(
    records: &[(&'r [u8], Option<&'r [u8]>)],
) -> Vec<(&'r [u8], Option<&'r [u8]>)> {
    let Some(&(first, _)) = records.first() else { return Vec::new() };
    let common = records.iter().fold(first.len(), |common, (key, _)| {
        first.iter().zip(*key).take(common).take_while(|(one, other)| one == other).count()
    });
    let mut order: Vec<(u64, usize)> =
        records.iter().enumerate().map(|(index, (key, _))| (prefix(key, common), index)).collect();
    let record = |index: usize| records.get(index).copied().unwrap_or_default();
    order.sort_unstable_by(|(one, first), (other, second)| {
        one.cmp(other).then_with(|| record(*first).0.cmp(record(*second).0)).then(first.cmp(second))
    });
    let mut last: Vec<(&[u8], Option<&[u8]>)> = Vec::with_capacity(order.len());
    for (_, index) in order {
        let (key, value) = record(index);
        match last.last_mut() {
            Some(before) if before.0 == key => before.1 = value,
            _ => last.push((key, value)),
        }
    }
    last
}

/// Eight bytes of the key as a number that sorts as they do. Shorter keys count as if zeros followed.
fn prefix(key: &[u8], from: usize) -> u64 {
    let mut bytes = [0; 8];
    let found = key.get(from..).unwrap_or_default();
    bytes.iter_mut().zip(found).for_each(|(to, byte)| *to = *byte);
    u64::from_be_bytes(bytes)
}
