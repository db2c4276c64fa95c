//! The sent bytes of a stream that the peer has not acknowledged, by the lane on which they left.

use std::collections::VecDeque;

use super::LaneId;

/// The capacity that an empty list keeps.
const EMPTY_CAPACITY: usize = 4;

/// Consecutive bytes that left on one lane.
#[derive(Debug, Clone, Copy)]
struct Segment {
    begin: u64,
    end: u64,
    /// `None` after the lane has ended: the bytes must be sent again.
    lane: Option<LaneId>,
}

/// The segments between the acknowledged offset and the next byte to send, in order.
#[derive(Debug, Default)]
pub(super) struct Flight {
    segments: VecDeque<Segment>,
    /// The bytes of all segments without a lane.
    lost: u64,
}

impl Flight {
    /// Returns the number of bytes that must be sent again.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns the first bytes that must be sent again: their offset and number.
    pub(super) fn first_lost(&self) -> Option<(u64, u64)> {
        if self.lost == 0 {
            return None;
        }
        self.segments
            .iter()
            .find(|segment| segment.lane.is_none())
            .map(|segment| (segment.begin, segment.end.saturating_sub(segment.begin)))
    }

    /// Records that the bytes from `begin` to `end`, which follow all earlier ones, left on `lane`.
    pub(super) fn sent(&mut self, begin: u64, end: u64, lane: LaneId) {
        match self.segments.back_mut() {
            Some(last) if last.end == begin && last.lane == Some(lane) => last.end = end,
            _ if begin < end => self.segments.push_back(Segment {
                begin,
                end,
                lane: Some(lane),
            }),
            _ => {}
        }
    }

    /// Records that the first `bytes` of the first lost segment left again, on `lane`.
    pub(super) fn sent_again(&mut self, bytes: u64, lane: LaneId) {
        let Some(index) = self
            .segments
            .iter()
            .position(|segment| segment.lane.is_none())
        else {
            return;
        };
        let Some(segment) = self.segments.get_mut(index) else {
            return;
        };
        let bytes = bytes.min(segment.end.saturating_sub(segment.begin));
        let begin = segment.begin;
        segment.begin = segment.begin.saturating_add(bytes);
        self.lost = self.lost.saturating_sub(bytes);
        let end = segment.begin;
        if segment.begin == segment.end {
            self.segments.remove(index);
        }
        // Several messages in sequence on one lane make one segment.
        let before = index
            .checked_sub(1)
            .and_then(|before| self.segments.get_mut(before));
        match before {
            Some(before) if before.end == begin && before.lane == Some(lane) => before.end = end,
            _ => self.segments.insert(
                index,
                Segment {
                    begin,
                    end,
                    lane: Some(lane),
                },
            ),
        }
    }

    /// Marks the bytes that left on `lane` as lost, at most the first `most` of them.
    pub(super) fn lose(&mut self, lane: LaneId, most: u64) {
        let (mut rest, mut index) = (most, 0_usize);
        while rest > 0
            && let Some(segment) = self.segments.get_mut(index)
        {
            index = index.saturating_add(1);
            if segment.lane != Some(lane) {
                continue;
            }
            let bytes = rest.min(segment.end.saturating_sub(segment.begin));
            rest = rest.saturating_sub(bytes);
            self.lost = self.lost.saturating_add(bytes);
            let kept = Segment {
                begin: segment.begin.saturating_add(bytes),
                ..*segment
            };
            segment.end = kept.begin;
            segment.lane = None;
            if kept.begin < kept.end {
                self.segments.insert(index, kept);
            }
        }
    }

    /// Forgets the bytes before `offset`.
    pub(super) fn acknowledge(&mut self, offset: u64) {
        while let Some(first) = self.segments.front_mut() {
            let end = first.end.min(offset);
            if first.lane.is_none() {
                self.lost = self.lost.saturating_sub(end.saturating_sub(first.begin));
            }
            first.begin = first.begin.max(end);
            if first.begin < first.end {
                break;
            }
            self.segments.pop_front();
        }
        if self.segments.is_empty() && self.segments.capacity() > EMPTY_CAPACITY {
            self.segments = VecDeque::new();
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Flight::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LaneId = LaneId(1);
    const B: LaneId = LaneId(2);

    #[test]
    fn bytes_of_an_ended_lane_are_sent_again_in_order() {
        let mut flight = Flight::default();
        flight.sent(0, 100, A);
        flight.sent(100, 150, B);
        flight.sent(150, 250, A);
        flight.acknowledge(20);
        flight.lose(A, u64::MAX);
        assert_eq!((flight.lost(), flight.first_lost()), (180, Some((20, 80))));
        flight.sent_again(50, B);
        assert_eq!((flight.lost(), flight.first_lost()), (130, Some((70, 30))));
        flight.sent_again(30, B);
        assert_eq!(flight.first_lost(), Some((150, 100)));
        flight.acknowledge(200);
        assert_eq!((flight.lost(), flight.first_lost()), (50, Some((200, 50))));
        flight.lose(B, u64::MAX);
        assert_eq!(flight.lost(), 50, "those bytes were acknowledged");
    }

    #[test]
    fn first_bytes_of_a_lane_are_sent_again_without_the_rest() {
        let mut flight = Flight::default();
        flight.sent(0, 100, A);
        flight.sent(100, 150, B);
        flight.sent(150, 250, A);
        flight.lose(A, 130);
        assert_eq!((flight.lost(), flight.first_lost()), (130, Some((0, 100))));
        flight.sent_again(100, B);
        assert_eq!(flight.first_lost(), Some((150, 30)));
        flight.sent_again(30, B);
        assert_eq!((flight.lost(), flight.first_lost()), (0, None));
        flight.lose(A, u64::MAX);
        assert_eq!(
            (flight.lost(), flight.first_lost()),
            (70, Some((180, 70))),
            "the rest is still on its lane"
        );
    }

    #[test]
    fn consecutive_bytes_of_one_lane_are_one_segment() {
        let mut flight = Flight::default();
        for begin in 0..1000 {
            flight.sent(begin, begin + 1, A);
        }
        assert_eq!(flight.segments.len(), 1);
        flight.lose(A, u64::MAX);
        for _ in 0..1000 {
            flight.sent_again(1, B);
        }
        assert_eq!((flight.segments.len(), flight.lost()), (1, 0));
    }
}
