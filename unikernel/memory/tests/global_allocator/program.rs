//! A real program: every allocation of it and of the standard library comes from the memory service.
//!
//! Whoever includes it says by which instance, its `ALLOCATOR`. The program counts words in threads, sorts, leaves work
//! to destructors that run when a thread is nearly gone, starts threads by the thousand and forks under load. It checks
//! what it computed, and at the end the allocator's books.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use crate::ALLOCATOR;

/// Filled before `main` runs.
static BEFORE_MAIN: Mutex<Vec<String>> = Mutex::new(Vec::new());

extern "C" fn allocate_before_main() {
    BEFORE_MAIN.lock().expect("nobody panicked yet").extend((0..1000).map(|number| format!("early {number}")));
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = allocate_before_main;

const PARTS: [(&str, fn()); 7] = [
    ("what was allocated before main is there", early_objects_are_there),
    ("words are counted in threads", words_are_counted_in_threads),
    ("strings are sorted in threads", strings_are_sorted_in_threads),
    ("buffers grow beyond every size class", buffers_grow_beyond_every_size_class),
    ("destructors of thread locals free late", destructors_of_thread_locals_free_late),
    ("threads by the thousand share a few sets", threads_by_the_thousand_share_a_few_sets),
    ("children of forks under load have a whole heap", children_of_forks_have_a_whole_heap),
];

/// All of the program, twice.
pub(crate) fn run() {
    let mut in_use = Vec::with_capacity(2);
    for _ in 0..2 {
        for (name, part) in PARTS {
            part();
            println!("{name} ... ok");
        }
        assert_books_balance();
        let rows = ALLOCATOR.service().statistics();
        in_use.push(rows.slab_in_use + rows.large + rows.pages_in_use);
    }
    assert_eq!(in_use[0], in_use[1], "the second round left nothing behind");
}

fn assert_books_balance() {
    let service = ALLOCATOR.service();
    let rows = service.statistics();
    assert!(rows.adds_up(), "{rows:#?}");
    assert_eq!(rows.slab_in_use, service.count_objects_in_use(), "{rows:#?}");
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
}

/// A sequence that looks random and is the same on every run.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

fn early_objects_are_there() {
    let early = BEFORE_MAIN.lock().expect("nobody panicked");
    assert_eq!(early.len(), 1000);
    assert!(early.iter().enumerate().all(|(number, text)| *text == format!("early {number}")));
}

fn words_are_counted_in_threads() {
    const TEXTS: u64 = 200;
    let text = |seed| numbers(seed).take(300).map(|word| format!("word-{}", word % 97)).collect::<Vec<_>>().join(" ");
    let (texts, queue) = mpsc::sync_channel::<String>(16);
    let queue = Arc::new(Mutex::new(queue));
    let (counts, results) = mpsc::channel::<HashMap<String, usize>>();
    let counters: Vec<_> = (0..8)
        .map(|_| {
            let (queue, counts) = (Arc::clone(&queue), counts.clone());
            thread::spawn(move || {
                loop {
                    let Ok(text) = queue.lock().expect("nobody panics with the lock").recv() else { return };
                    let mut count = HashMap::new();
                    for word in text.split(' ') {
                        *count.entry(word.to_owned()).or_insert(0) += 1;
                    }
                    counts.send(count).expect("somebody adds them up");
                }
            })
        })
        .collect();
    drop(counts);
    let writer = thread::spawn(move || (0..TEXTS).for_each(|seed| texts.send(text(seed)).expect("somebody counts")));
    let mut total = HashMap::new();
    for (word, count) in results.into_iter().flatten() {
        *total.entry(word).or_insert(0) += count;
    }
    writer.join().expect("the writer does not panic");
    for counter in counters {
        counter.join().expect("counters do not panic");
    }
    let mut expected = HashMap::new();
    for number in (0..TEXTS).flat_map(|seed| numbers(seed).take(300)) {
        *expected.entry(format!("word-{}", number % 97)).or_insert(0) += 1;
    }
    assert_eq!(total, expected);
}

fn strings_are_sorted_in_threads() {
    let strings: Vec<String> =
        numbers(7).take(40_000).map(|number| "x".repeat(number as usize % 60) + &number.to_string()).collect();
    let sorters: Vec<_> = strings
        .chunks(5000)
        .map(|chunk| {
            let mut chunk = chunk.to_vec();
            thread::spawn(move || {
                chunk.sort();
                chunk
            })
        })
        .collect();
    // Each string was allocated in another thread than the one that drops it.
    let mut merged = BTreeMap::<String, usize>::new();
    for sorter in sorters {
        for string in sorter.join().expect("sorters do not panic") {
            *merged.entry(string).or_default() += 1;
        }
    }
    let merged: Vec<String> =
        merged.into_iter().flat_map(|(string, times)| std::iter::repeat_n(string, times)).collect();
    let mut expected = strings;
    expected.sort_unstable();
    assert_eq!(merged, expected);
}

fn buffers_grow_beyond_every_size_class() {
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            thread::spawn(move || {
                let mut buffer = Vec::new();
                let mut length = 1usize;
                while length < 3 << 20 {
                    buffer.extend((buffer.len()..length).map(|index| index as u64 * (worker + 1)));
                    length = length * 3 / 2 + 1;
                }
                assert!(buffer.iter().enumerate().all(|(index, &value)| value == index as u64 * (worker + 1)));
                buffer.truncate(1000);
                buffer.shrink_to_fit();
                assert!(buffer.iter().enumerate().all(|(index, &value)| value == index as u64 * (worker + 1)));
                buffer
            })
        })
        .collect();
    let lengths: Vec<_> = workers.into_iter().map(|worker| worker.join().expect("growing works").len()).collect();
    assert_eq!(lengths, [1000; 4]);
    let zeroes = vec![0u8; 1 << 30];
    assert!(zeroes.iter().step_by(1 << 20).all(|&byte| byte == 0));
}

static DROPPED: AtomicUsize = AtomicUsize::new(0);

/// Checks what it holds when it goes, and needs the allocator to do so.
struct Keepsake {
    number: usize,
    text: String,
}

impl Keepsake {
    fn new(number: usize) -> Self {
        Self { number, text: Self::text(number) }
    }

    fn text(number: usize) -> String {
        format!("keepsake {number}").repeat(number % 50 + 1)
    }
}

impl Drop for Keepsake {
    fn drop(&mut self) {
        assert_eq!(self.text, Self::text(self.number));
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    static KEEPSAKES: RefCell<Vec<Keepsake>> = const { RefCell::new(Vec::new()) };
}

/// The destructor of a key that is younger than the allocator's own: glibc runs it after that one, when the thread has
/// given its CPU back already.
extern "C" fn drop_last(keepsakes: *mut libc::c_void) {
    // SAFETY: the key's value is the box that `destructors_of_thread_locals_free_late` made of it.
    drop(unsafe { Box::from_raw(keepsakes.cast::<Vec<Keepsake>>()) });
    let late: Vec<Keepsake> = (0..100).map(Keepsake::new).collect();
    drop(late);
}

fn destructors_of_thread_locals_free_late() {
    const THREADS: usize = 60;
    DROPPED.store(0, Ordering::Relaxed);
    let mut key = 0;
    // SAFETY: `key` is ours to write; the destructor has the signature asked for.
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(drop_last)) }, 0);
    let made_elsewhere = thread::spawn(|| (0..THREADS * 10).map(Keepsake::new).collect());
    let mut made_elsewhere: Vec<Keepsake> = made_elsewhere.join().expect("nothing panics");
    for number in 0..THREADS {
        let given = Keepsake::new(number);
        let mut more = made_elsewhere.split_off(made_elsewhere.len() - 10);
        let own_thread = thread::spawn(move || {
            KEEPSAKES.with_borrow_mut(|keepsakes| {
                keepsakes.push(given);
                keepsakes.append(&mut more);
                keepsakes.push(Keepsake::new(number + 1));
            });
            let last: Vec<Keepsake> = (0..20).map(Keepsake::new).collect();
            // SAFETY: the key exists; its destructor makes a box of the pointer again.
            assert_eq!(unsafe { libc::pthread_setspecific(key, Box::into_raw(Box::new(last)).cast()) }, 0);
        });
        own_thread.join().expect("nothing panics");
    }
    // SAFETY: no thread that lives has a value for the key.
    assert_eq!(unsafe { libc::pthread_key_delete(key) }, 0);
    assert_eq!(DROPPED.load(Ordering::Relaxed), THREADS * (1 + 10 + 1 + 20 + 100));
}

fn threads_by_the_thousand_share_a_few_sets() {
    const AT_ONCE: usize = 8;
    let wave = |wave: usize| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|thread| {
                thread::spawn(move || {
                    numbers((wave * AT_ONCE + thread) as u64)
                        .take(30)
                        .map(|number| vec![number as u8; number as usize % 900])
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for (thread, handle) in threads.into_iter().enumerate() {
            let vectors = handle.join().expect("nothing panics");
            let expected = numbers((wave * AT_ONCE + thread) as u64).take(30);
            for (vector, number) in vectors.iter().zip(expected) {
                assert_eq!(vector.len(), number as usize % 900);
                assert!(vector.iter().all(|&byte| byte == number as u8));
            }
        }
    };
    let metadata = || ALLOCATOR.service().statistics().metadata;
    wave(0);
    let before = metadata();
    for number in 1..=500 {
        wave(number);
    }
    let grown = metadata() - before;
    // A set is ten pages; had each thread its own, this were 160 MB.
    assert!(grown <= 2 << 20, "{grown} bytes of metadata for 4,000 threads, {AT_ONCE} at a time");
}

fn children_of_forks_have_a_whole_heap() {
    const FORKS: usize = 30;
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..4)
        .map(|seed| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut kept: Vec<Vec<u8>> = vec![Vec::new(); 300];
                for number in numbers(seed) {
                    // Mostly small, now and then pages: the busy threads are to be inside every layer when a fork
                    // comes.
                    let size = number as usize % if number % 50 == 0 { 100_000 } else { 2000 };
                    kept[number as usize / 7 % 300] = vec![number as u8; size];
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        })
        .collect();
    let inherited: Vec<Keepsake> = (0..500).map(Keepsake::new).collect();
    for number in 0..FORKS {
        // SAFETY: the child uses the allocator, which is what is tested, and threads; it ends without returning from
        // here.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "{}", std::io::Error::last_os_error());
        if child == 0 {
            // SAFETY: without this a child that hangs would be waited for without end.
            unsafe { libc::alarm(60) };
            let lived = std::panic::catch_unwind(|| live_as_a_child(inherited, number));
            // SAFETY: ends the child at once, without the parent's exit handlers.
            unsafe { libc::_exit(i32::from(lived.is_err())) };
        }
        let mut status = 0;
        // SAFETY: waits for a child of ours.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "fork {number}: status {status:#x}");
    }
    stop.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().expect("nothing panics");
    }
    assert!(inherited.iter().enumerate().all(|(number, keepsake)| keepsake.text == Keepsake::text(number)));
}

/// What the child of a fork does: it has the forking thread only, and everybody's memory.
fn live_as_a_child(inherited: Vec<Keepsake>, number: usize) {
    let shared = Arc::new(inherited);
    let threads: Vec<_> = (0..6)
        .map(|thread| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let copies: Vec<String> = shared.iter().map(|keepsake| keepsake.text.clone()).collect();
                let large = vec![thread as u8; 200_000 * (number % 3 + 1)];
                assert!(large.iter().all(|&byte| byte == thread as u8));
                copies
            })
        })
        .collect();
    for thread in threads {
        let copies = thread.join().expect("nothing panics");
        assert!(copies.iter().zip(shared.iter()).all(|(copy, keepsake)| *copy == keepsake.text));
    }
    let service = ALLOCATOR.service();
    service.validate().unwrap_or_else(|broken| panic!("{broken}"));
    drop(Arc::into_inner(shared).expect("the threads have ended"));
}
