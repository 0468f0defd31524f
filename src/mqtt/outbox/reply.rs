//! Where an answer goes: what a command asked for (MQTT 5, 3.3.2.3.5 and 3.3.2.3.6), as it waits with the answer.

/// Longest of both together, with the byte between them.
const LONGEST: usize = 256;

/// Response topic and correlation data of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Where the answer is published; empty where the command named no topic.
    pub topic: String,
    /// What tells whoever asked which command it answers.
    pub correlation: Vec<u8>,
}

impl Reply {
    /// As the `extra` of a message; none where it is longer than 256 bytes.
    #[must_use]
    pub fn to_extra(&self) -> Option<Vec<u8>> {
        let length = u8::try_from(self.topic.len()).ok()?;
        let extra = [&[length], self.topic.as_bytes(), &self.correlation].concat();
        (extra.len() <= LONGEST).then_some(extra)
    }

    /// From a message's `extra`; none where there is none in it.
    #[must_use]
    pub fn from_extra(extra: &[u8]) -> Option<Self> {
        let (length, rest) = extra.split_first()?;
        let (topic, correlation) = rest.split_at_checked((*length).into())?;
        Some(Self { topic: std::str::from_utf8(topic).ok()?.to_owned(), correlation: correlation.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_as_it_was_or_not_at_all() {
        let reply = Reply { topic: "ops/answers".to_owned(), correlation: vec![0; 16] };
        assert_eq!(Reply::from_extra(&reply.to_extra().unwrap()), Some(reply.clone()));
        assert_eq!(Reply::from_extra(&Reply::default().to_extra().unwrap()), Some(Reply::default()));
        for bad in [&[][..], &[5, b'a'], &[1, 0xff]] {
            assert_eq!(Reply::from_extra(bad), None);
        }
        assert_eq!(Reply { topic: "a".repeat(256), ..reply.clone() }.to_extra(), None);
        assert_eq!(Reply { correlation: vec![0; 245], ..reply }.to_extra(), None);
    }
}
