package vault

import (
	"time"

	"kmsfs/fs/backing"
)

// hiddenTime is the modification time of a file of which something stands in the journal only. What shows must not stand beside
// the old content: whoever copies files by size and time, as rsync does, would take the old content for the new, and never look
// again. So the stored file is given a time that is a second earlier, until all is in place.
type hiddenTime struct {
	on     bool
	shown  backing.Timespec
	stands backing.Timespec // what was given to the stored file for it; valid for what was read earlier also where it is not on
}

// hiddenBy is how much earlier: rsync, left to itself, compares whole seconds.
const hiddenBy = time.Second

// aside is t, some time later.
func aside(t backing.Timespec, ns time.Duration) backing.Timespec {
	at := t.Time().Add(ns)
	return backing.Timespec{Sec: at.Unix(), Nsec: int64(at.Nanosecond())}
}

// show is the modification time that shows where the stored file has t. f.mu is held.
func (h *hiddenTime) show(t backing.Timespec) backing.Timespec {
	if h.stands != (backing.Timespec{}) && t == h.stands {
		return h.shown
	}
	return t
}

// give is the time for the stored file that is to show t.
func (h *hiddenTime) give(t backing.Timespec) backing.Timespec {
	if !h.on || t.Nsec == backing.UtimeOmit || t.Nsec == backing.UtimeNow {
		return t
	}
	h.shown, h.stands = t, aside(t, -hiddenBy)
	return h.stands
}

// hideTime comes before something of f stands in the journal only. Where it fails, or the backing file system keeps another
// time than it is given, nothing is hidden. f.mu is held for writing.
func (f *file) hideTime() {
	if f.hidden.on || f.v.readOnly {
		return
	}
	st, err := f.bf.Stat()
	if err != nil {
		return
	}
	omit := backing.Timespec{Nsec: backing.UtimeOmit}
	f.hidden.on = true
	if f.bf.Utimes(omit, f.hidden.give(st.Mtim)) != nil {
		f.hidden = hiddenTime{}
		return
	}
	if now, err := f.bf.Stat(); err != nil || now.Mtim != f.hidden.stands {
		f.hidden = hiddenTime{}
		f.bf.Utimes(omit, st.Mtim)
	}
}

// seenTime is what showed, and what the stored file had.
type seenTime struct{ shown, stood backing.Timespec }

// seeTime notes the modification time in a stat of the stored file. f.mu is held.
func (f *file) seeTime(st backing.Stat) seenTime {
	return seenTime{f.hidden.show(st.Mtim), st.Mtim}
}

// backTo returns what to give the stored file, whose content was changed, so that it shows what it did: hidden as long as
// something is not in place. f.mu is held for writing.
func (f *file) backTo(was seenTime) backing.Timespec {
	if !f.hidden.on {
		return was.shown
	}
	if f.unplaced() {
		return f.hidden.give(was.shown)
	}
	f.hidden.on = false
	if was.shown == was.stood { // written in place meanwhile: the time that shows has stood beside the old content
		return aside(was.shown, 1)
	}
	return was.shown
}

// unplaced says whether anything of f is neither in place nor given up. f.mu is held.
func (f *file) unplaced() bool {
	if p := f.pendingInline; p != nil && !p.at.yes {
		return true
	}
	for _, p := range f.pending {
		if !p.at.yes {
			return true
		}
	}
	return false
}

// showTime gives the stored file the time that shows, where nothing is left that it was hidden for. f.mu is held for writing.
func (f *file) showTime() {
	if !f.hidden.on || f.unplaced() {
		return
	}
	if st, err := f.bf.Stat(); err == nil {
		f.bf.Utimes(backing.Timespec{Nsec: backing.UtimeOmit}, f.backTo(f.seeTime(st))) // a failure costs a second
	}
}
