package fs

import (
	"log/slog"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// BenchmarkJob is what watching for hung requests costs each of them.
func BenchmarkJob(b *testing.B) {
	s := &Server{log: slog.New(slog.DiscardHandler), begun: time.Now()}
	w := &worker{s: s}
	h := &fuse.InHeader{Opcode: opRead, NodeId: 7}
	now := s.now()
	b.ReportAllocs()
	for b.Loop() {
		w.job.begin(h, now)
		w.end()
	}
}

// TestWhereIs finds a goroutine in what the runtime prints.
func TestWhereIs(t *testing.T) {
	const stacks = `goroutine 1 [chan receive, 2 minutes]:
main.main()
	/x/main.go:1 +0x1

goroutine 71 [syscall, 1 minutes, locked to thread]:
syscall.Syscall(0x1, 0x2)
	/x/asm.s:1 +0x1
kmsfs/fs/backing.(*file).Sync(0xc000, {0x1, 0x2})
	/x/file.go:1 +0x1
kmsfs/fs/vault.(*Vault).Fsync.func1(...)
	/x/attr.go:1
created by kmsfs/fs.(*Server).spawn in goroutine 1
	/x/serve.go:1 +0x1

goroutine 7 [running]:
`
	waits, at := whereIs([]byte(stacks), 71)
	if want := "fs/backing.(*file).Sync < fs/vault.(*Vault).Fsync.func1"; waits != "syscall" || at != want {
		t.Errorf("waits %q at %q, want %q", waits, at, want)
	}
	if waits, at := whereIs([]byte(stacks), 70); waits != "" || at != "" {
		t.Errorf("one that is not there waits %q at %q", waits, at)
	}
	if id := goroutineID(); id <= 0 {
		t.Errorf("this goroutine is number %d", id)
	}
}
