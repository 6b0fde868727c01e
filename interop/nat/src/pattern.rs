//! Bytes that tell their own place: what is lost, doubled or out of order shows at its first byte.

/// Bytes of one number.
const WORD: u64 = 8;

/// The byte at this place of the stream: of the big-endian numbers 0, 1, 2, ... the one that lies there.
pub(crate) fn byte_at(place: u64) -> u8 {
    let word = (place / WORD).to_be_bytes();
    let within = usize::try_from(place % WORD).unwrap_or_default();
    word[within]
}

/// Fills a buffer with the stream from this place on.
pub(crate) fn fill(place: u64, buffer: &mut [u8]) {
    for (place, byte) in (place..).zip(buffer) {
        *byte = byte_at(place);
    }
}

/// The same much faster, from a place where a number begins and for whole numbers.
pub(crate) fn fill_numbers(place: u64, buffer: &mut [u8]) {
    for (number, bytes) in (place / WORD..).zip(buffer.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&number.to_be_bytes());
    }
}

/// The first place from this one on where the bytes are not those of the stream.
pub(crate) fn first_difference(place: u64, bytes: &[u8]) -> Option<u64> {
    let mut places = (place..).zip(bytes);
    let wrong = places.find(|(place, byte)| byte_at(*place) != **byte);
    wrong.map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_the_same_pattern() {
        let (mut one, mut other) = (vec![0; 4096], vec![0; 4096]);
        fill(8 * 77, &mut one);
        fill_numbers(8 * 77, &mut other);
        assert_eq!(one, other);
    }

    #[test]
    fn a_lost_or_doubled_piece_shows_where_it_begins() {
        let mut bytes = vec![0; 4096];
        fill(100, &mut bytes);
        assert_eq!(first_difference(100, &bytes), None);
        assert!(first_difference(101, &bytes).is_some());
        // One number lost: what follows differs in its last byte.
        let mut lost = bytes.clone();
        lost.drain(804..812);
        assert_eq!(first_difference(100, &lost), Some(100 + 804 + 7));
        let mut doubled = bytes.clone();
        doubled.splice(812..812, bytes[804..812].to_vec());
        assert_eq!(first_difference(100, &doubled), Some(100 + 812 + 7));
    }
}
