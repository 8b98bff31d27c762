package memfs

import (
	"maps"
	"testing"
)

// Check looks whether link counts, parents and the memory of what is durable add up.
func Check(t *testing.T, fs *FS) {
	t.Helper()
	links, subdirs := map[*inode]uint32{}, map[*inode]uint32{}
	fs.walk(func(in *inode) {
		for name, child := range in.entries {
			links[child]++
			if child.isDir() {
				subdirs[in]++
				if child.parent != in || child.dead {
					t.Errorf("directory %s: wrong parent", name)
				}
			}
		}
		if len(fs.log) == 0 && in.isDir() && !maps.Equal(in.entries, in.base) {
			t.Errorf("inode %d: nothing is in the log, but base is not entries", in.ino)
		}
	})
	fs.walk(func(in *inode) {
		want := links[in]
		if in.isDir() {
			want = 2 + subdirs[in]
			if links[in] > 1 {
				t.Errorf("directory %d has %d names", in.ino, links[in])
			}
		}
		if in.nlink != want {
			t.Errorf("inode %d: nlink %d, want %d", in.ino, in.nlink, want)
		}
		for i, p := range in.data.pages {
			for j := max(0, in.data.size-i*pageSize); j < pageSize; j++ {
				if p[j] != 0 {
					t.Fatalf("inode %d: byte %d of page %d past the end", in.ino, j, i)
				}
			}
		}
	})
}
