//! The test data for sealing and compression: the same bytes in every run.

/// The message sizes in bytes: a packet, a read, a full chunk.
pub(crate) const SIZES: [usize; 3] = [1460, 16 * 1024, 64 * 1024];

/// splitmix64.
pub(crate) struct Random(pub u64);

impl Random {
    /// Returns the next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`. Small numbers are more frequent, like common words in a
    /// text.
    fn skewed(&mut self, limit: usize) -> usize {
        let (one, other) = (self.next() % limit as u64, self.next() % limit as u64);
        (one * other / limit as u64) as usize
    }
}

/// Returns incompressible bytes.
pub(crate) fn random(length: usize) -> Vec<u8> {
    let mut random = Random(1);
    (0..length)
        .map(|_| random.next().to_be_bytes()[0])
        .collect()
}

/// Returns sentences of invented words, with about the letters, lengths and repetition of English.
pub(crate) fn text(length: usize) -> Vec<u8> {
    let mut random = Random(2);
    let syllables = [
        "a", "in", "the", "er", "on", "re", "st", "ou", "ing", "com", "ly", "tion", "be", "ment",
        "ar", "ent", "ver", "i", "so", "pro",
    ];
    let words: Vec<String> = (0..4000)
        .map(|index| {
            (0..=(index as u64 / 60).min(1) + random.next() % 3)
                .map(|_| syllables[random.skewed(syllables.len())])
                .collect()
        })
        .collect();
    let mut text = String::with_capacity(length + 100);
    while text.len() < length {
        let start = text.len();
        for _ in 0..5 + random.next() % 15 {
            text.push_str(&words[random.skewed(words.len())]);
            text.push_str(if random.next().is_multiple_of(9) {
                ", "
            } else {
                " "
            });
        }
        text.truncate(text.trim_end_matches([' ', ',']).len());
        text.push_str(if random.next().is_multiple_of(6) {
            ".\n"
        } else {
            ". "
        });
        let capital = text[start..=start].to_ascii_uppercase();
        text.replace_range(start..=start, &capital);
    }
    text.truncate(length);
    text.into_bytes()
}

/// Returns machine code and tables: the middle of the running program.
pub(crate) fn binary(length: usize) -> Vec<u8> {
    let program = std::env::current_exe()
        .and_then(std::fs::read)
        .expect("the running program can be read");
    let from = (program.len() / 4).min(program.len().saturating_sub(length));
    program.into_iter().skip(from).take(length).collect()
}
