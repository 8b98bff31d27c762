package lab

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"
)

// Nobody is the user and group that the tests take for "somebody else".
const Nobody = 65534

// As calls f with the effective user and group id, without supplementary groups and so without capabilities. Only the
// calling thread changes: f must make its system calls in the same goroutine. The caller must be root.
func As(id int, f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	group := [1]uint32{uint32(id)}
	must(syscall.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&group)), 0)
	setEffective(syscall.SYS_SETRESGID, id)
	setEffective(syscall.SYS_SETRESUID, id)
	defer func() {
		setEffective(syscall.SYS_SETRESUID, 0)
		setEffective(syscall.SYS_SETRESGID, 0)
		must(syscall.SYS_SETGROUPS, 0, 0, 0)
	}()
	f()
}

// setEffective sets the effective id only; the real one and the saved one let the thread return.
func setEffective(call uintptr, id int) {
	keep := ^uintptr(0)
	must(call, keep, uintptr(id), keep)
}

// must makes the raw system call, which, unlike the syscall package's, changes this thread alone. There is no going on
// after a failure: the thread would have the wrong identity.
func must(call, a, b, c uintptr) {
	if _, _, errno := syscall.RawSyscall(call, a, b, c); errno != 0 {
		panic(fmt.Sprintf("system call %d: %v", call, errno))
	}
}
