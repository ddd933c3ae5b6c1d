/* Preloaded into a scan: what is written past the end of a block of memory ends the process, instead of spoiling what
 * lies behind it. Blocks of a page and more, as tensors and scratchpads ask for them, end where a page begins that may
 * not be touched; addresses are never given twice. Linux, 64 bits. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096UL
#define REGION (1UL << 42)
#define SMALLEST 512UL

static _Atomic uintptr_t next_address;
static uintptr_t region;

static void *guarded(size_t alignment, size_t size) {
    size_t pages = (size + PAGE - 1) / PAGE * PAGE;
    uintptr_t start = atomic_fetch_add(&next_address, pages + PAGE);
    if (start + pages + PAGE > region + REGION || mprotect((void *)start, pages, PROT_READ | PROT_WRITE)) return NULL;
    return (void *)((start + pages - size) / alignment * alignment);
}

__attribute__((constructor)) static void reserve(void) {
    void *found = mmap(NULL, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) return;
    region = (uintptr_t)found;
    next_address = region;
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    static int (*usual)(void **, size_t, size_t);
    if (region && size >= SMALLEST && alignment < PAGE) {
        *out = guarded(alignment, size);
        return *out ? 0 : ENOMEM;
    }
    if (!usual) usual = (int (*)(void **, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
    return usual(out, alignment, size);
}

void free(void *block) {
    static void (*usual)(void *);
    uintptr_t address = (uintptr_t)block;
    if (region && address >= region && address < region + REGION) {
        /* how long it was is not kept: its first page alone is closed, which is enough to be noticed */
        mprotect((void *)(address / PAGE * PAGE), PAGE, PROT_NONE);
        return;
    }
    if (!usual) usual = (void (*)(void *))dlsym(RTLD_NEXT, "free");
    usual(block);
}
