package memfs

// writeErrors is what writing back has failed with, and whom it was told to, as errseq_t of the kernel.
type writeErrors struct {
	err   error
	count int
	heard bool // somebody was told of the last one
}

func (w *writeErrors) add(err error) {
	w.err, w.heard = err, false
	w.count++
}

// since is what a handle that is opened now has been told of: an error that nobody has heard of is told to it too.
func (w *writeErrors) since() int {
	if w.count > 0 && !w.heard {
		return w.count - 1
	}
	return w.count
}

// tell returns the error once for each handle, which notes in told what it has heard.
func (w *writeErrors) tell(told *int) error {
	if *told >= w.count {
		return nil
	}
	*told, w.heard = w.count, true
	return w.err
}

// LoseWrites is a disk that fails while the kernel writes back what is in memory. As on Linux the pages that are not durable
// stay readable and are taken for written: only writing them again makes a later sync write them. Each open handle of such a
// file is told of err once, by Sync or DataSync, and each directory by SyncFS. Names, sizes, holes
// and attributes are not concerned.
func (fs *FS) LoseWrites(err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	any := false
	fs.walk(func(in *inode) {
		lost := map[int64]bool{}
		for i := range in.data.old {
			if in.data.pages[i] != nil || in.data.lost[i] {
				lost[i] = true
			}
		}
		if len(lost) > len(in.data.lost) {
			in.failed.add(err)
			any = true
		}
		in.data.lost = lost
	})
	if any {
		fs.failed.add(err)
	}
}
