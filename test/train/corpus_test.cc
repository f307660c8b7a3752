// Which files are read and held out, and which bytes each sample gets.
#include "train/corpus.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "longstride/error.h"

namespace longstride::train {
namespace {

namespace fs = std::filesystem;

class CorpusTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("longstride-corpus-" + std::to_string(getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  void put(const std::string& name, const std::string& bytes) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << bytes;
  }
  CorpusOptions options() const { return {{root_.string()}, {}, {}, 0.0}; }

  fs::path root_;
};

std::vector<std::string> names(const Text& text) {
  std::vector<std::string> list;
  for (const Document& document : text.documents) list.push_back(document.name);
  return list;
}

TEST_F(CorpusTest, ReadsFoldersSortedAndPassesOverWhatIsNoText) {
  put("b.py", "bb");
  put("a/z.py", "zz");
  put("a/y.txt", "yy");
  put("empty.py", "");
  put(".hidden/c.py", "cc");
  put("binary", std::string("x\0y", 3));
  fs::create_symlink(root_ / "b.py", root_ / "link.py");
  const Corpus corpus = read_corpus(options());
  EXPECT_EQ(names(corpus.train), (std::vector<std::string>{"a/y.txt", "a/z.py", "b.py"}));
  EXPECT_EQ(corpus.train.bytes, std::string("yy\0zz\0bb\0", 9));
  EXPECT_EQ(corpus.train.documents[2].start, 6u);
}

TEST_F(CorpusTest, FiltersByExtensionWithOrWithoutTheDot) {
  put("a.py", "a");
  put("b.md", "b");
  put("c.pyc", "c");
  CorpusOptions only = options();
  only.extensions = {".py", "md"};
  EXPECT_EQ(names(read_corpus(only).train), (std::vector<std::string>{"a.py", "b.md"}));
  only.extensions = {"rs"};
  EXPECT_THROW(read_corpus(only), Error);
}

TEST_F(CorpusTest, AFileNamedTwiceIsReadOnce) {
  put("a.py", "a");
  CorpusOptions twice = options();
  twice.paths.push_back((root_ / "a.py").string());
  EXPECT_EQ(read_corpus(twice).train.documents.size(), 1u);
}

TEST_F(CorpusTest, TheSplitIsAPartitionAndFollowsNamesAlone) {
  for (int i = 0; i < 40; ++i) put(std::string("f").append(std::to_string(i)), "some text");
  CorpusOptions split = options();
  split.held_out_share = 0.1;
  const Corpus corpus = read_corpus(split);
  EXPECT_EQ(corpus.held_out.documents.size(), 4u);
  std::set<std::string> all;
  for (const Text* side : {&corpus.train, &corpus.held_out}) {
    for (const std::string& name : names(*side)) all.insert(name);
  }
  EXPECT_EQ(all.size(), 40u);
  // The same files elsewhere: the same split, and the same fingerprint.
  const fs::path moved = root_.string() + "-moved";
  fs::remove_all(moved);
  fs::rename(root_, moved);
  split.paths = {moved.string()};
  const Corpus again = read_corpus(split);
  fs::rename(moved, root_);
  EXPECT_EQ(names(again.held_out), names(corpus.held_out));
  EXPECT_EQ(again.fingerprint, corpus.fingerprint);
  put("f7", "other text");
  split.paths = {root_.string()};
  EXPECT_NE(read_corpus(split).fingerprint, corpus.fingerprint);
}

TEST_F(CorpusTest, NamedFilesAreHeldOutOfTraining) {
  put("a.py", "a");
  put("sub/b.py", "b");
  CorpusOptions split = options();
  split.held_out_paths = {(root_ / "sub").string()};
  const Corpus corpus = read_corpus(split);
  EXPECT_EQ(names(corpus.train), std::vector<std::string>{"a.py"});
  EXPECT_EQ(names(corpus.held_out), std::vector<std::string>{"b.py"});
  split.held_out_paths = {root_.string()};
  EXPECT_THROW(read_corpus(split), Error);
}

TEST_F(CorpusTest, TheTailOfASingleFileIsHeldOut) {
  put("book", "0123456789");
  CorpusOptions split = options();
  split.held_out_share = 0.2;
  const Corpus corpus = read_corpus(split);
  EXPECT_EQ(corpus.train.bytes, std::string("01234567\0", 9));
  EXPECT_EQ(corpus.held_out.bytes, std::string("89\0", 3));
}

TEST_F(CorpusTest, RefusesWhatIsNotThere) {
  EXPECT_THROW(read_corpus({{(root_ / "absent").string()}, {}, {}, 0.0}), Error);
  EXPECT_THROW(read_corpus({{}, {}, {}, 0.0}), Error);
  EXPECT_THROW(read_corpus(options()), Error) << "an empty folder";
}

TEST(WindowOrder, AnEpochTakesEachWindowOnce) {
  constexpr size_t kBytes = 1003;
  WindowOrder order(kBytes, 10, 7);
  ASSERT_EQ(order.windows_per_epoch(), 100);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::set<size_t> starts;
    for (int64_t i = 0; i < 100; ++i) {
      const size_t start = order.start(epoch * 100 + i);
      EXPECT_LT(start, kBytes);
      starts.insert(start);
    }
    EXPECT_EQ(starts.size(), 100u);
  }
}

TEST(WindowOrder, IsAFunctionOfSeedAndSample) {
  WindowOrder a(5000, 16, 7), b(5000, 16, 7), c(5000, 16, 8);
  const size_t later = b.start(900);
  b.start(3);
  int equal = 0;
  for (int64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(a.start(i), b.start(i));
    equal += a.start(i) == c.start(i) ? 1 : 0;
  }
  EXPECT_EQ(a.start(900), later);
  EXPECT_LT(equal, 10);
}

TEST(WindowOrder, RefusesTooLittleText) {
  EXPECT_THROW(WindowOrder(10, 10, 1), Error);
  EXPECT_THROW(WindowOrder(10, 0, 1), Error);
  EXPECT_NO_THROW(WindowOrder(11, 10, 1));
}

TEST(ScoringWindows, LieInOneDocumentEach) {
  Text text;
  text.bytes.resize(100);
  text.documents = {{"a", 0, 25}, {"b", 26, 9}, {"c", 36, 63}};
  const std::vector<size_t> all = scoring_windows(text, 10, 100, false);
  EXPECT_EQ(all, (std::vector<size_t>{5, 15, 39, 49, 59, 69, 79, 89}));
  EXPECT_EQ(scoring_windows(text, 10, 4, false), (std::vector<size_t>{15, 49, 69, 89}));
  EXPECT_TRUE(scoring_windows(text, 64, 4, false).empty());
  EXPECT_EQ(scoring_windows(text, 64, 4, true), std::vector<size_t>{36});
}

}  // namespace
}  // namespace longstride::train
