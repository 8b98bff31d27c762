package lab

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"
)

// Nobody is the user and group that the tests take for "somebody else".
const Nobody = 65534

// As calls f as the user and group id, without supplementary groups and so without capabilities, and waits for it. f
// runs in a goroutine of its own, on a thread that ends with it: there is no way back. f must make its system calls in
// that goroutine, and must not end the test. The caller must be root.
func As(id int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		if id != 0 {
			become(id)
		}
		f()
	}()
	<-done
}

func become(id int) {
	group, u := [1]uint32{uint32(id)}, uintptr(id)
	must(syscall.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&group)), 0)
	must(syscall.SYS_SETRESGID, u, u, u)
	must(syscall.SYS_SETRESUID, u, u, u)
}

// must makes the raw system call, which, unlike the syscall package's, changes this thread alone. There is no going on
// after a failure: the thread would have the wrong identity.
func must(call, a, b, c uintptr) {
	if _, _, errno := syscall.RawSyscall(call, a, b, c); errno != 0 {
		panic(fmt.Sprintf("system call %d: %v", call, errno))
	}
}
