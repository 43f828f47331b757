/// An endless sequence of bytes that belongs to one direction of one connection, so that a byte that is lost, swapped,
/// doubled or somebody else's is seen.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    key: u64,
    position: u64,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    ToOrigin,
    ToClient,
}

impl Pattern {
    pub(super) fn new(seed: u64, id: u64, direction: Direction) -> Self {
        Self { key: mix(mix(seed ^ mix(id)) ^ direction as u64), position: 0 }
    }

    /// How many bytes have been written or checked.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes of the sequence.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        let mut word = self.word();
        for byte in bytes {
            let place = self.position % 8;
            if place == 0 {
                word = self.word();
            }
            *byte = word[place as usize];
            self.position += 1;
        }
    }

    /// Whether these are the next bytes of the sequence; if not, the position of the first that is not.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<(), u64> {
        let mut expected = [0; 4096];
        for part in bytes.chunks(expected.len()) {
            let expected = &mut expected[..part.len()];
            let start = self.position;
            self.fill(expected);
            if expected != part {
                let wrong = part.iter().zip(expected.iter()).take_while(|(a, b)| a == b).count();
                return Err(start + wrong as u64);
            }
        }
        Ok(())
    }

    fn word(&self) -> [u8; 8] {
        mix(self.key.wrapping_add(self.position / 8)).to_le_bytes()
    }
}

/// splitmix64.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_the_same_in_pieces_and_differs_from_every_other() {
        let pattern = |seed, id, direction| {
            let mut whole = vec![0; 10_000];
            Pattern::new(seed, id, direction).fill(&mut whole);
            whole
        };
        let whole = pattern(1, 2, Direction::ToOrigin);
        let mut pieces = Pattern::new(1, 2, Direction::ToOrigin);
        for piece in whole.chunks(7) {
            assert_eq!(pieces.check(piece), Ok(()));
        }
        for other in
            [pattern(1, 2, Direction::ToClient), pattern(1, 3, Direction::ToOrigin), pattern(2, 2, Direction::ToOrigin)]
        {
            assert_ne!(whole, other);
        }
        let mut spoilt = whole;
        spoilt[5_000] ^= 1;
        assert_eq!(Pattern::new(1, 2, Direction::ToOrigin).check(&spoilt), Err(5_000));
    }
}
