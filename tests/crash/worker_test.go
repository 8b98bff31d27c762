package crash_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// worker is a process that writes until the mount dies under it. The mount is its working directory, and it stays there
// by relative paths: the absolute one leads to the bare directory below when the dead mount is taken away. It says in a journal, which is not on the mount, what
// it is about to do and what it has been told is done:
//
//	write FILE RECORD VERSION      returned FILE RECORD VERSION      synced FILE
//	replace FILE VERSION           replaced FILE VERSION
//	link NAME VERSION              linked NAME VERSION
//	move NAME NAME2 VERSION        moved NAME NAME2 VERSION
//	remove NAME                    removed NAME
type worker struct {
	*rand.Rand
	journal     string
	id, version int
	log         *os.File
	links       map[string]int // names that exist, with their versions
}

// killedMark is the file beside the journal that says that the daemon is being killed: from then on calls may fail.
const killedMark = ".killed"

// work is the child's main: JOURNAL ID VERSION. Versions count on from VERSION.
func work(args []string) error {
	id, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	version, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	log, err := os.OpenFile(args[0], os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	w := &worker{Rand: rand.New(rand.NewPCG(uint64(id), uint64(version))), journal: args[0], id: id,
		version: version, log: log, links: map[string]int{}}
	err = w.run()
	if _, statErr := os.Stat(w.journal + killedMark); statErr == nil {
		return nil
	}
	return fmt.Errorf("before the daemon was killed: %w", err)
}

// run works until something fails.
func (w *worker) run() error {
	for n := range linksEach {
		name := linkName(w.id, n)
		target, err := os.Readlink(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if w.links[name], err = strconv.Atoi(target); err != nil {
			return err
		}
	}
	for {
		do := []func() error{w.records, w.records, w.replace, w.link, w.link}[w.IntN(5)]
		if err := do(); err != nil {
			return err
		}
	}
}

// say writes one line to the journal.
func (w *worker) say(words ...any) {
	if _, err := fmt.Fprintln(w.log, words...); err != nil {
		panic(err) // the test's own file system fails
	}
}

func (w *worker) next() int { w.version++; return w.version }

// records writes some records of one file and makes them durable, by fsync, fdatasync, O_SYNC or close.
func (w *worker) records() error {
	n := w.IntN(filesEach)
	file, size := recordFile(w.id, n), recordSize(n)
	flags := unix.O_RDWR | unix.O_CREAT
	if w.IntN(6) == 0 {
		flags |= unix.O_SYNC
	}
	f, err := os.OpenFile(file, flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close() // closed before in the good case
	for range 1 + w.IntN(12) {
		r := record{file, w.IntN(recordsEach), w.next()}
		w.say("write", r.file, r.index, r.version)
		if _, err := f.WriteAt(r.content(size), int64(r.index*size)); err != nil {
			return err
		}
		w.say("returned", r.file, r.index, r.version)
		switch {
		case flags&unix.O_SYNC != 0:
			w.say("synced", file)
		case w.IntN(5) == 0:
			if err := []func() error{f.Sync, func() error { return unix.Fdatasync(int(f.Fd())) }}[w.IntN(2)](); err != nil {
				return err
			}
			w.say("synced", file)
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	// The close of a file that was written in the tick of a sync succeeds on a dead connection, which lost its pages; this asks the daemon.
	if err := unix.Statfs(".", &unix.Statfs_t{}); err != nil {
		return err
	}
	w.say("synced", file)
	return nil
}

// replace writes a new file and moves it over the old one.
func (w *worker) replace() error {
	file, version := wholeFile(w.id, w.IntN(wholesEach)), w.next()
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, record{file, 0, version}.content(wholeSize(version)), 0o644); err != nil {
		return err
	}
	w.say("replace", file, version)
	if err := os.Rename(tmp, file); err != nil {
		return err
	}
	w.say("replaced", file, version)
	return nil
}

// link makes, moves or removes a symbolic link, whose target is its version.
func (w *worker) link() error {
	name, other := linkName(w.id, w.IntN(linksEach)), linkName(w.id, w.IntN(linksEach))
	version, exists := w.links[name]
	switch {
	case !exists:
		version = w.next()
		w.say("link", name, version)
		if err := os.Symlink(strconv.Itoa(version), name); err != nil {
			return err
		}
		w.links[name] = version
		w.say("linked", name, version)
	case w.IntN(2) == 0 && other != name:
		w.say("move", name, other, version)
		if err := os.Rename(name, other); err != nil {
			return err
		}
		delete(w.links, name)
		w.links[other] = version
		w.say("moved", name, other, version)
	default:
		w.say("remove", name)
		if err := os.Remove(name); err != nil {
			return err
		}
		delete(w.links, name)
		w.say("removed", name)
	}
	return nil
}
