# Cross-compiles for 64-bit ARM with Debian's g++-aarch64-linux-gnu and runs the tests under QEMU (qemu-user-static).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
# Static, so that the emulator needs no libraries of the other architecture.
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
find_program(QUANTSR_QEMU NAMES qemu-aarch64-static qemu-aarch64 REQUIRED)
set(CMAKE_CROSSCOMPILING_EMULATOR ${QUANTSR_QEMU})
