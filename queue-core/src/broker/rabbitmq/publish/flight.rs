//! The messages that were sent on a confirm channel and are not answered yet, and when an answer counts. Owned by `wire`; knows
//! nothing of AMQP.
//!
//! lapin hands a returned message to whichever confirm it completes next, which may be a later publish's, and one frame
//! completes many in no order. But messages come back in the order in which they were sent, each before its own confirm:
//! when a publish and *all earlier ones* are completed, all that came back for them has been handed out. So an answer
//! counts when all earlier ones are there and everything that had been completed by then has been looked at. For that,
//! each confirm notes its number when it is completed, by a waker of its own. Nothing is released before all that are noted
//! have been looked at, and all that have no waker yet have been asked.
//!
//! Answers count in order, so only the first needs to wake a task. (Of some `wire` knows earlier that they count.)

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::task::{ArcWake, AtomicWaker, waker_ref};

/// How many may be sent before the first of them is known to be written. lapin writes what there is in one go; more only
/// pushes what it is about to write out of the CPU's cache, and fills its memory.
pub(super) const AHEAD: usize = 256;

/// Items sent in their order. `W` waits until one is written, which happens in that order too, and gives the `C` that
/// waits for its answer.
pub(super) struct Flight<T, W, C, E> {
    slots: VecDeque<Slot<T, W, C>>,
    /// The number of the first slot.
    first: u64,
    /// The number of the first slot that is not known to be written.
    unwritten: u64,
    completions: Arc<Completions>,
    /// Wakers that no slot has at the moment.
    slot_wakers: Vec<Arc<SlotWaker>>,
    /// Those that have waited until something was written, for their memory's sake.
    spares: Vec<W>,
    /// Those that are noted and being looked at.
    completed: Vec<u64>,
    /// The error that ends the flight, to be returned by [`poll`](Self::poll).
    failed: Option<E>,
}

struct Slot<T, W, C> {
    item: T,
    stage: Stage<W, C>,
}

enum Stage<W, C> {
    Writing(W),
    /// Written, and not asked yet.
    Written(C),
    /// Notes its number when it is answered.
    Waiting(C, Arc<SlotWaker>),
    Answered,
    /// It was not sent, or will not be answered. Must not be polled again.
    Failed,
}

impl<T, W, C, A, E> Flight<T, W, C, E>
where
    W: Future<Output = Result<C, E>> + Unpin,
    C: Future<Output = Result<A, E>> + Unpin,
{
    pub(super) fn new() -> Self {
        Self {
            slots: VecDeque::new(),
            first: 0,
            unwritten: 0,
            completions: Arc::default(),
            slot_wakers: Vec::new(),
            spares: Vec::new(),
            completed: Vec::new(),
            failed: None,
        }
    }

    /// How many are there.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All that are there, the first one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|slot| &slot.item)
    }

    /// The one that was sent last.
    pub(super) fn last(&self) -> Option<&T> {
        self.slots.back().map(|slot| &slot.item)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().map(|slot| &mut slot.item)
    }

    pub(super) fn into_items(self) -> impl DoubleEndedIterator<Item = T> {
        self.slots.into_iter().map(|slot| slot.item)
    }

    /// True if one more may be sent.
    pub(super) fn has_room(&self) -> bool {
        let end = self.first + self.slots.len() as u64;
        end - self.unwritten.max(self.first) < AHEAD as u64
    }

    /// A `W` that has done its duty, to be made into the next one.
    pub(super) fn spare(&mut self) -> Option<W> {
        self.spares.pop()
    }

    /// Sends one: by the first poll of `writing`, which is made here, so that all are sent in the order of their
    /// numbers. [`poll`](Self::poll) must follow.
    pub(super) fn send(&mut self, item: T, mut writing: W) {
        let stage = match Pin::new(&mut writing).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Stage::Writing(writing),
            Poll::Ready(Ok(answer)) => Stage::Written(answer),
            Poll::Ready(Err(error)) => {
                self.failed.get_or_insert(error);
                self.completions.owner.wake();
                Stage::Failed
            }
        };
        self.slots.push_back(Slot { item, stage });
    }

    /// Looks at everything that has happened, and has `cx` woken when there may be more to
    /// [`release`](Self::release), or [room](Self::has_room) where there was none. `on_answer` is told each answer once.
    ///
    /// # Errors
    /// If one cannot be sent or will not be answered: then none will be.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut on_answer: impl FnMut(&mut T, A),
    ) -> Result<(), E> {
        self.completions.owner.register(cx.waker());
        let mut completed = std::mem::take(&mut self.completed);
        loop {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            let front = self.first_unanswered();
            self.completions.take(&mut completed, front);
            let mut heard = false;
            for number in completed.drain(..) {
                heard |= self.ask(number, &mut on_answer)?;
            }
            while self.poll_written(front)? {
                heard |= self.ask(self.unwritten - 1, &mut on_answer)?;
            }
            // What was heard now may have been completed after others, which have completed since.
            if !heard {
                self.completed = completed;
                return Ok(());
            }
        }
    }

    /// Asks all once more, after an error. No task is woken any more.
    pub(super) fn ask_all(&mut self, mut on_answer: impl FnMut(&mut T, A)) {
        let mut cx = Context::from_waker(Waker::noop());
        for Slot { item, stage } in &mut self.slots {
            if let Stage::Writing(writing) = stage
                && let Poll::Ready(written) = Pin::new(writing).poll(&mut cx)
            {
                *stage = written.map_or(Stage::Failed, Stage::Written);
            }
            if let Stage::Written(answer) | Stage::Waiting(answer, _) = stage
                && let Poll::Ready(answer) = Pin::new(answer).poll(&mut cx)
            {
                *stage = match answer {
                    Ok(answer) => {
                        on_answer(item, answer);
                        Stage::Answered
                    }
                    Err(_) => Stage::Failed,
                };
            }
        }
    }

    /// As [`poll`](Self::poll), where there is only one, and for as long as there is: without a waker of its own. An error is left
    /// for `poll` to return, and its last caller is woken.
    pub(super) fn poll_only(&mut self, cx: &mut Context<'_>, on_answer: impl FnOnce(&mut T, A)) -> Poll<()> {
        match self.try_poll_only(cx, on_answer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(error)) => {
                self.failed.get_or_insert(error);
                self.completions.owner.wake();
                Poll::Pending
            }
        }
    }

    fn try_poll_only(
        &mut self,
        cx: &mut Context<'_>,
        on_answer: impl FnOnce(&mut T, A),
    ) -> Poll<Result<(), E>> {
        // What has failed must not be polled again.
        let Some(Slot { item, stage }) = self.slots.front_mut().filter(|_| self.failed.is_none()) else {
            return Poll::Pending;
        };
        if let Stage::Writing(writing) = stage {
            let written = std::task::ready!(Pin::new(writing).poll(cx));
            self.spares.extend(stage.written(written)?);
        }
        let answer = match stage {
            Stage::Written(answer) | Stage::Waiting(answer, _) => {
                std::task::ready!(Pin::new(answer).poll(cx))
            }
            Stage::Writing(_) | Stage::Answered | Stage::Failed => return Poll::Pending,
        };
        *stage = Stage::Failed;
        on_answer(item, answer?);
        *stage = Stage::Answered;
        Poll::Ready(Ok(()))
    }

    /// Takes out the first, if it is answered and the answer counts.
    pub(super) fn release(&mut self) -> Option<T> {
        if !matches!(self.slots.front()?.stage, Stage::Answered) {
            return None;
        }
        self.first += 1;
        self.slots.pop_front().map(|slot| slot.item)
    }

    fn first_unanswered(&self) -> u64 {
        let answered = self.slots.iter().take_while(|slot| matches!(slot.stage, Stage::Answered));
        self.first + answered.count() as u64
    }

    /// True if the next one is found to be written.
    fn poll_written(&mut self, front: u64) -> Result<bool, E> {
        let has_room = self.has_room();
        self.unwritten = self.unwritten.max(self.first);
        let Some(slot) = slot(&mut self.slots, self.first, self.unwritten) else { return Ok(false) };
        if let Stage::Writing(writing) = &mut slot.stage {
            let completions = waker_ref(&self.completions);
            // Behind an unanswered one there would be nothing to release yet.
            let waker = if self.unwritten == front || !has_room { &*completions } else { Waker::noop() };
            match Pin::new(writing).poll(&mut Context::from_waker(waker)) {
                Poll::Pending => return Ok(false),
                Poll::Ready(written) => self.spares.extend(slot.stage.written(written)?),
            }
        }
        self.unwritten += 1;
        Ok(true)
    }

    /// Asks a written one for its answer, and gives it a waker if it has none yet. Whether it was answered.
    fn ask(&mut self, number: u64, on_answer: &mut impl FnMut(&mut T, A)) -> Result<bool, E> {
        let Some(slot) = slot(&mut self.slots, self.first, number) else { return Ok(false) };
        let (mut answer, slot_waker) = match std::mem::replace(&mut slot.stage, Stage::Failed) {
            Stage::Waiting(answer, slot_waker) => (answer, slot_waker),
            Stage::Written(answer) => {
                (answer, SlotWaker::new(self.slot_wakers.pop(), &self.completions, number))
            }
            other => {
                slot.stage = other;
                return Ok(false);
            }
        };
        match Pin::new(&mut answer).poll(&mut Context::from_waker(&waker_ref(&slot_waker))) {
            Poll::Pending => {
                slot.stage = Stage::Waiting(answer, slot_waker);
                Ok(false)
            }
            Poll::Ready(answer) => {
                on_answer(&mut slot.item, answer?);
                slot.stage = Stage::Answered;
                self.slot_wakers.push(slot_waker);
                Ok(true)
            }
        }
    }
}

impl<W, C> Stage<W, C> {
    /// It has been written, or will not be. Gives what waited for that, which has done its duty.
    fn written<E>(&mut self, written: Result<C, E>) -> Result<Option<W>, E> {
        match std::mem::replace(self, Self::Failed) {
            Self::Writing(writing) => {
                *self = Self::Written(written?);
                Ok(Some(writing))
            }
            other => {
                *self = other;
                Ok(None)
            }
        }
    }
}

fn slot<S>(slots: &mut VecDeque<S>, first: u64, number: u64) -> Option<&mut S> {
    slots.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
}

/// Notes which slots are completed.
#[derive(Default)]
struct Completions {
    /// The waker of the task that polls the flight.
    owner: AtomicWaker,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    /// Those that have not been looked at, in their order.
    completed: Vec<u64>,
    /// The slot whose completion wakes the owner.
    front: u64,
}

impl Completions {
    /// Takes out those that are noted, and from now on wakes for `front`. `into` is empty.
    fn take(&self, into: &mut Vec<u64>, front: u64) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.front = front;
        std::mem::swap(&mut noted.completed, into);
    }

    fn note(&self, number: u64) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.completed.push(number);
        let wakes = noted.front == number;
        drop(noted);
        if wakes {
            self.owner.wake();
        }
    }
}

/// Being written is not noted: it wakes the owner.
impl ArcWake for Completions {
    fn wake_by_ref(completions: &Arc<Self>) {
        completions.owner.wake();
    }
}

/// Notes that one slot is completed. Used again for others: if it does so late for its last slot, that one is asked for
/// nothing, no more.
struct SlotWaker {
    completions: Arc<Completions>,
    number: AtomicU64,
}

impl SlotWaker {
    fn new(spare: Option<Arc<Self>>, completions: &Arc<Completions>, number: u64) -> Arc<Self> {
        match spare {
            Some(slot_waker) => {
                slot_waker.number.store(number, Ordering::Relaxed);
                slot_waker
            }
            None => Arc::new(Self { completions: completions.clone(), number: AtomicU64::new(number) }),
        }
    }
}

impl ArcWake for SlotWaker {
    fn wake_by_ref(slot_waker: &Arc<Self>) {
        slot_waker.completions.note(slot_waker.number.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests;
