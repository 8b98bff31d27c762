package reverse_test

import (
	"fmt"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/reverse"
)

// onDisk has the source of b on the disk.
func (b *bench) onDisk() backing.Dir {
	b.t.Helper()
	d, err := backing.OpenDir(b.t.TempDir())
	must(b.t, err)
	return d
}

// BenchmarkRead reads a large file through the view, by megabytes.
func BenchmarkRead(b *testing.B) {
	for _, chunk := range []int{4096, 65536} {
		b.Run(fmt.Sprint(chunk), func(b *testing.B) {
			s := newBench(b, chunk)
			src := s.onDisk()
			write(b, src, "large", content(1, 64<<20), 0)
			v, err := reverse.Open(b.Context(), src, s.state.Root(), s.ks, reverse.Options{})
			must(b, err)
			defer v.Close()
			n := find(b, v, s.keys(), "large")
			p := make([]byte, 1<<20)
			b.SetBytes(64 << 20)
			for b.Loop() {
				h, _, err := v.Open(n)
				must(b, err)
				for off := int64(0); off < 64<<20; off += int64(len(p)) {
					_, err := h.Read(b.Context(), p, off)
					must(b, err)
				}
				h.Close()
			}
		})
	}
}

// BenchmarkSmall lists a directory and reads its small files, whose keys are not at hand.
func BenchmarkSmall(b *testing.B) {
	s := newBench(b, 4096)
	src := s.onDisk()
	const files = 1000
	for i := range files {
		write(b, src, fmt.Sprint("file ", i), content(1, 2000), 0)
	}
	v, err := reverse.Open(b.Context(), src, s.state.Root(), s.ks, reverse.Options{})
	must(b, err)
	defer v.Close()
	p := make([]byte, 4096)
	for b.Loop() {
		v.Purge()
		entries, err := v.List(b.Context(), v.Root())
		must(b, err)
		for _, e := range entries {
			n, _, err := v.LookupEntry(v.Root(), e)
			must(b, err)
			if e.Kind == 0x8000 {
				h, _, err := v.Open(n)
				must(b, err)
				_, err = h.Read(b.Context(), p, 0)
				must(b, err)
				h.Close()
			}
			v.Forget(n, 1)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/files, "us/file")
}
